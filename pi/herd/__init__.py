"""The rules of the farm, on an open transaction: what a payload means, and what may be written about the herd and its users.

Every function writes within the caller's transaction and commits nothing. `now` is UTC text, YYYY-MM-DDTHH:MM:SS: clocks come in as
arguments. `expected` guards a change of a row: the values that the caller saw; where one is another by now, nothing is written.
"""

from pi.herd.animals import (
    add_animal,
    change_animal,
    delete_animal,
    move_animal,
    pair_tags,
    record_weight,
)
from pi.herd.batches import add_batch, change_batch, delete_batch
from pi.herd.payloads import (
    STATUSES,
    Stored,
    any_received,
    process_payload,
    process_received,
    receive,
    store_payload,
)
from pi.herd.pens import add_pen, change_pen, delete_pen
from pi.herd.rows import utc_now
from pi.herd.users import add_user, change_user, find_user, remove_user, require_admin, set_password

__all__ = [
    "STATUSES",
    "Stored",
    "add_animal",
    "add_batch",
    "add_pen",
    "add_user",
    "any_received",
    "change_animal",
    "change_batch",
    "change_pen",
    "change_user",
    "delete_animal",
    "delete_batch",
    "delete_pen",
    "find_user",
    "move_animal",
    "pair_tags",
    "process_payload",
    "process_received",
    "receive",
    "record_weight",
    "remove_user",
    "require_admin",
    "set_password",
    "store_payload",
    "utc_now",
]
