CREATE TABLE batches (
  id INTEGER PRIMARY KEY,
  batch_number TEXT NOT NULL UNIQUE,
  induction_date TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d', 'now')),
  source TEXT,
  source_type TEXT,
  notes TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);

CREATE TABLE pens (
  id INTEGER PRIMARY KEY,
  pen_number TEXT NOT NULL UNIQUE,
  capacity INTEGER NOT NULL,
  description TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);

CREATE TABLE cattle (
  id INTEGER PRIMARY KEY,
  batch_id INTEGER NOT NULL REFERENCES batches(id),
  cattle_id TEXT NOT NULL UNIQUE,
  sex TEXT,
  weight REAL,
  health_status TEXT,
  lf_tag TEXT,
  uhf_tag TEXT,
  pen_id INTEGER REFERENCES pens(id),
  notes TEXT,
  status TEXT NOT NULL DEFAULT 'active',
  induction_date TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);
CREATE INDEX cattle_lf_tag ON cattle(lf_tag);
CREATE INDEX cattle_uhf_tag ON cattle(uhf_tag);

CREATE TABLE weight_records (
  id INTEGER PRIMARY KEY,
  cattle_id INTEGER NOT NULL REFERENCES cattle(id),
  weight REAL NOT NULL,
  recorded_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  recorded_by TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);

CREATE TABLE pair_history (
  id INTEGER PRIMARY KEY,
  cattle_id INTEGER NOT NULL REFERENCES cattle(id),
  lf_tag TEXT,
  uhf_tag TEXT,
  paired_at TEXT,
  unpaired_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_by TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);
CREATE INDEX pair_history_cattle_id ON pair_history(cattle_id);

CREATE TABLE lora_payload_buffer (
  id INTEGER PRIMARY KEY,
  raw_payload TEXT NOT NULL,
  source_type TEXT,
  batch_number TEXT,
  lf_tag TEXT,
  uhf_tag TEXT,
  status TEXT NOT NULL DEFAULT 'received'
    CHECK (status IN ('received', 'processed', 'error')),
  batch_id INTEGER REFERENCES batches(id),
  error_message TEXT,
  received_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  processed_at TEXT,
  rssi REAL,
  snr REAL,
  times_received INTEGER NOT NULL DEFAULT 1,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);
CREATE INDEX lora_payload_buffer_lf_tag ON lora_payload_buffer(lf_tag);
CREATE INDEX lora_payload_buffer_uhf_tag ON lora_payload_buffer(uhf_tag);
CREATE INDEX lora_payload_buffer_received ON lora_payload_buffer(id) WHERE status = 'received';

CREATE TABLE users (
  id INTEGER PRIMARY KEY,
  username TEXT NOT NULL UNIQUE,
  email TEXT,
  password_hash TEXT NOT NULL DEFAULT '!',
  role TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('admin', 'user')),
  is_active INTEGER NOT NULL DEFAULT 1,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S', 'now'))
);

