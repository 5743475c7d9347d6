-- The farm at its newest version: what `python -m pi serve` makes when there is no farm.db yet. `sqlite3 farm.db < pi/schema.sql` makes the same.
-- An existing file gets here by migrations/NNNN_*.sql; a test proves that both roads end in the same schema.
--
-- Times are UTC text, YYYY-MM-DDTHH:MM:SS without a Z. created_at and updated_at have a default, so that an INSERT typed in the shell need
-- not name them; Drover's own code moves updated_at, an UPDATE in the shell does so only when it names it (a trigger that wrote the same row
-- again would double every row of the changelog, which knows the time of each change anyway).
-- Foreign keys are enforced for Drover's own writes; a shell needs PRAGMA foreign_keys=ON.
-- Only the indexes that the Pi itself needs: those of the pages live on the replica, where no SD card pays for them.

CREATE TABLE batches (
  id INTEGER PRIMARY KEY,
  batch_number TEXT NOT NULL UNIQUE,                                         -- what the radio sends, e.g. BATCH001
  induction_date TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d', 'now')),        -- UTC date, YYYY-MM-DD
  source TEXT,                                                               -- for people: Barn (HXB), Export (HXE), a seller
  source_type TEXT,                                                          -- hxb or hxe where a payload made it
  notes TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);

CREATE TABLE pens (
  id INTEGER PRIMARY KEY,
  pen_number TEXT NOT NULL UNIQUE,
  capacity INTEGER NOT NULL,                                                 -- animals
  description TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);

CREATE TABLE cattle (
  id INTEGER PRIMARY KEY,
  batch_id INTEGER NOT NULL REFERENCES batches(id),                          -- the batch that it is in now
  cattle_id TEXT NOT NULL UNIQUE,                                            -- its name on the farm; <batch>-<lf tag> where a payload made it
  sex TEXT,                                                                  -- NULL until known
  weight REAL,                                                               -- kg, the newest one; NULL until known
  health_status TEXT,
  lf_tag TEXT,                                                               -- low-frequency ear tag on it now
  uhf_tag TEXT,                                                              -- ultra-high-frequency ear tag on it now
  pen_id INTEGER REFERENCES pens(id),
  notes TEXT,
  status TEXT NOT NULL DEFAULT 'active',                                     -- active, exported, or a word of the farm's own
  induction_date TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);
CREATE INDEX cattle_lf_tag ON cattle(lf_tag);                                -- both: which animal carries the tag of a payload
CREATE INDEX cattle_uhf_tag ON cattle(uhf_tag);

CREATE TABLE weight_records (
  id INTEGER PRIMARY KEY,
  cattle_id INTEGER NOT NULL REFERENCES cattle(id),                          -- cattle.id, not cattle.cattle_id
  weight REAL NOT NULL,                                                      -- kg
  recorded_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),  -- when it was weighed
  recorded_by TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);

CREATE TABLE pair_history (                                                  -- pairs of tags that an animal carried before; the present one is in cattle
  id INTEGER PRIMARY KEY,
  cattle_id INTEGER NOT NULL REFERENCES cattle(id),                          -- cattle.id
  lf_tag TEXT,
  uhf_tag TEXT,
  paired_at TEXT,                                                            -- since when the animal carried the pair
  unpaired_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_by TEXT,                                                           -- who re-paired it: lora, or the name of a key
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);
CREATE INDEX pair_history_cattle_id ON pair_history(cattle_id);              -- since when the present pair is on the animal

CREATE TABLE lora_payload_buffer (
  id INTEGER PRIMARY KEY,
  raw_payload TEXT NOT NULL,                                                 -- <hxb|hxe>:<batch>:<lf>:<uhf>, at most 255 bytes
  source_type TEXT,                                                          -- this and the next three: the parts of raw_payload; NULL until parsed
  batch_number TEXT,
  lf_tag TEXT,
  uhf_tag TEXT,
  status TEXT NOT NULL DEFAULT 'received'
    CHECK (status IN ('received', 'processed', 'error')),                    -- received: the worker takes it within LORA_PROCESSING_INTERVAL
  batch_id INTEGER REFERENCES batches(id),                                   -- the batch that it named; NULL until processed
  error_message TEXT,                                                        -- why status is error
  received_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),  -- the first time
  processed_at TEXT,
  rssi REAL,                                                                 -- dBm, as the radio said with the first one; NULL from HTTP and bare lines
  snr REAL,                                                                  -- dB, likewise
  times_received INTEGER NOT NULL DEFAULT 1,                                 -- a radio repeats itself: counted here, not stored again
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);
CREATE INDEX lora_payload_buffer_lf_tag ON lora_payload_buffer(lf_tag);      -- both: the newest payload that named a tag
CREATE INDEX lora_payload_buffer_uhf_tag ON lora_payload_buffer(uhf_tag);
CREATE INDEX lora_payload_buffer_received ON lora_payload_buffer(id) WHERE status = 'received';  -- small: what waits for the worker

CREATE TABLE users (                                                         -- replicated, so that login works while the Pi is away
  id INTEGER PRIMARY KEY,
  username TEXT NOT NULL UNIQUE,
  email TEXT,
  password_hash TEXT NOT NULL DEFAULT '!',                                   -- werkzeug scrypt; '!' opens nothing: python -m pi user password NAME
  role TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('admin', 'user')),
  is_active INTEGER NOT NULL DEFAULT 1,                                      -- 0: may not log in
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);

PRAGMA user_version = 1;                                                     -- the number of the newest migration
