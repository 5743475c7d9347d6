-- The tables of the earlier system, as its models created them; test_pi_farm.py fills them and has them taken over.
CREATE TABLE batches (
  id INTEGER NOT NULL PRIMARY KEY, batch_number VARCHAR(50) NOT NULL, induction_date DATE NOT NULL, source VARCHAR(200),
  source_type VARCHAR(10), notes TEXT, created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL
);
CREATE TABLE pens (
  id INTEGER NOT NULL PRIMARY KEY, pen_number VARCHAR(50) NOT NULL, capacity INTEGER NOT NULL, description TEXT,
  created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL
);
CREATE TABLE users (
  id INTEGER NOT NULL PRIMARY KEY, username VARCHAR(80) NOT NULL UNIQUE, email VARCHAR(120) NOT NULL UNIQUE,
  password_hash VARCHAR(255) NOT NULL, is_admin BOOLEAN NOT NULL, is_active BOOLEAN NOT NULL, created_at DATETIME NOT NULL
);
CREATE TABLE cattle (
  id INTEGER NOT NULL PRIMARY KEY, batch_id INTEGER NOT NULL REFERENCES batches(id), cattle_id VARCHAR(100) NOT NULL UNIQUE,
  sex VARCHAR(10) NOT NULL, weight FLOAT NOT NULL, health_status VARCHAR(50), lf_tag VARCHAR(100), uhf_tag VARCHAR(100),
  pen_id INTEGER REFERENCES pens(id), notes TEXT, status VARCHAR(20) NOT NULL, induction_date DATETIME NOT NULL,
  created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL
);
CREATE TABLE weight_records (
  id INTEGER NOT NULL PRIMARY KEY, cattle_id INTEGER NOT NULL REFERENCES cattle(id), weight FLOAT NOT NULL,
  recorded_at DATETIME NOT NULL, recorded_by VARCHAR(100)
);
CREATE TABLE pair_history (
  id INTEGER NOT NULL PRIMARY KEY, cattle_id INTEGER NOT NULL REFERENCES cattle(id), lf_tag VARCHAR(100), uhf_tag VARCHAR(100),
  paired_at DATETIME NOT NULL, unpaired_at DATETIME NOT NULL, updated_by VARCHAR(100)
);
CREATE TABLE lora_payload_buffer (
  id INTEGER NOT NULL PRIMARY KEY, raw_payload VARCHAR(255) NOT NULL, payload_hash VARCHAR(64) NOT NULL UNIQUE,
  source_type VARCHAR(10), batch_number VARCHAR(50), lf_tag VARCHAR(50), uhf_tag VARCHAR(50), status VARCHAR(20) NOT NULL,
  batch_id INTEGER REFERENCES batches(id), error_message TEXT, received_at DATETIME NOT NULL, processed_at DATETIME,
  created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL
);
