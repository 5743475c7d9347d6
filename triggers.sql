.bail on
CREATE TEMP TABLE changelog_fits(
  free CONSTRAINT "this database has something of its own named changelog, changelog_... or _changelog_...: rename it" CHECK(free),
  ok CONSTRAINT "this triggers.sql was made for another schema. Run: python -m changelog install FILE" CHECK(ok));
INSERT INTO changelog_fits SELECT CASE WHEN EXISTS(SELECT 1 FROM sqlite_schema WHERE type='table' AND name LIKE 'changelog')
    THEN (SELECT group_concat(name) FROM pragma_table_info('changelog')) LIKE 'seq,at,nonce,actor,tbl,op,key,gen,chg,rid,orid,%'
    ELSE NOT EXISTS(SELECT 1 FROM sqlite_schema WHERE CASE type WHEN 'trigger' THEN name LIKE '\_changelog\_%' ESCAPE '\'
      ELSE lower(name) IN ('changelog','changelog_cols','changelog_meta','changelog_stash','changelog_position','changelog_audit') OR name LIKE 'changelog\_of\_%' ESCAPE '\' END) END, NOT EXISTS(
    SELECT 1 FROM (VALUES('batches','id/1,batch_number/0,induction_date/0,source/0,source_type/0,notes/0,created_at/0,updated_at/0'),('cattle','id/1,batch_id/0,cattle_id/0,sex/0,weight/0,health_status/0,lf_tag/0,uhf_tag/0,pen_id/0,notes/0,status/0,induction_date/0,created_at/0,updated_at/0'),('lora_payload_buffer','id/1,raw_payload/0,source_type/0,batch_number/0,lf_tag/0,uhf_tag/0,status/0,batch_id/0,error_message/0,received_at/0,processed_at/0,rssi/0,snr/0,times_received/0,created_at/0,updated_at/0'),('pair_history','id/1,cattle_id/0,lf_tag/0,uhf_tag/0,paired_at/0,unpaired_at/0,updated_by/0,created_at/0,updated_at/0'),('pens','id/1,pen_number/0,capacity/0,description/0,created_at/0,updated_at/0'),('users','id/1,username/0,email/0,password_hash/0,role/0,is_active/0,created_at/0,updated_at/0'),('weight_records','id/1,cattle_id/0,weight/0,recorded_at/0,recorded_by/0,created_at/0,updated_at/0')) e WHERE e.column2 IS NOT (SELECT group_concat(name||'/'||pk) FROM (
      SELECT name, pk FROM pragma_table_xinfo(e.column1) WHERE hidden=0 ORDER BY cid)))
  AND NOT EXISTS(
    SELECT 1 FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT IN ('batches','cattle','lora_payload_buffer','pair_history','pens','users','weight_records','changelog','changelog_cols','changelog_meta','changelog_stash','changelog_position'))
  AND NOT EXISTS(
    SELECT 1 FROM sqlite_schema WHERE type='trigger' AND name LIKE '\_changelog\_%' ESCAPE '\' AND tbl_name NOT IN ('batches','cattle','lora_payload_buffer','pair_history','pens','users','weight_records','changelog','changelog_cols','changelog_meta','changelog_stash','changelog_position'))
  AND (SELECT count(*) FROM pragma_table_info('changelog') WHERE name GLOB '[no][0-9]*') IN (0,32);
DROP TABLE changelog_fits;
PRAGMA journal_mode=WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS changelog(seq INTEGER PRIMARY KEY, at TEXT, nonce INTEGER, actor TEXT,
  tbl TEXT, op TEXT, key, gen INTEGER, chg TEXT, rid INTEGER, orid INTEGER,
  n0,n1,n2,n3,n4,n5,n6,n7,n8,n9,n10,n11,n12,n13,n14,n15,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15);
CREATE TABLE IF NOT EXISTS changelog_cols(tbl TEXT, gen INTEGER, pos INTEGER, col TEXT, pk INTEGER, mask INTEGER, PRIMARY KEY(tbl, gen, pos)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changelog_meta(name TEXT, value, seq INTEGER);
CREATE TABLE IF NOT EXISTS changelog_stash(tbl TEXT, rid INTEGER, o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15);
DELETE FROM changelog_stash;
DELETE FROM changelog_meta WHERE name='mask';
INSERT INTO changelog_meta(name,value) VALUES('mask','users.password_hash');
DROP VIEW IF EXISTS changelog_audit;
CREATE VIEW changelog_audit AS SELECT l.seq, l.at, coalesce(l.actor,'unknown writer') AS actor, l.tbl, l.op, l.key, c.col,
  CASE WHEN c.mask AND CASE c.pos WHEN 0 THEN l.o0 WHEN 1 THEN l.o1 WHEN 2 THEN l.o2 WHEN 3 THEN l.o3 WHEN 4 THEN l.o4 WHEN 5 THEN l.o5 WHEN 6 THEN l.o6 WHEN 7 THEN l.o7 WHEN 8 THEN l.o8 WHEN 9 THEN l.o9 WHEN 10 THEN l.o10 WHEN 11 THEN l.o11 WHEN 12 THEN l.o12 WHEN 13 THEN l.o13 WHEN 14 THEN l.o14 WHEN 15 THEN l.o15 END IS NOT NULL THEN '***' ELSE CASE c.pos WHEN 0 THEN l.o0 WHEN 1 THEN l.o1 WHEN 2 THEN l.o2 WHEN 3 THEN l.o3 WHEN 4 THEN l.o4 WHEN 5 THEN l.o5 WHEN 6 THEN l.o6 WHEN 7 THEN l.o7 WHEN 8 THEN l.o8 WHEN 9 THEN l.o9 WHEN 10 THEN l.o10 WHEN 11 THEN l.o11 WHEN 12 THEN l.o12 WHEN 13 THEN l.o13 WHEN 14 THEN l.o14 WHEN 15 THEN l.o15 END END AS old,
  CASE WHEN c.mask AND CASE c.pos WHEN 0 THEN l.n0 WHEN 1 THEN l.n1 WHEN 2 THEN l.n2 WHEN 3 THEN l.n3 WHEN 4 THEN l.n4 WHEN 5 THEN l.n5 WHEN 6 THEN l.n6 WHEN 7 THEN l.n7 WHEN 8 THEN l.n8 WHEN 9 THEN l.n9 WHEN 10 THEN l.n10 WHEN 11 THEN l.n11 WHEN 12 THEN l.n12 WHEN 13 THEN l.n13 WHEN 14 THEN l.n14 WHEN 15 THEN l.n15 END IS NOT NULL THEN '***' ELSE CASE c.pos WHEN 0 THEN l.n0 WHEN 1 THEN l.n1 WHEN 2 THEN l.n2 WHEN 3 THEN l.n3 WHEN 4 THEN l.n4 WHEN 5 THEN l.n5 WHEN 6 THEN l.n6 WHEN 7 THEN l.n7 WHEN 8 THEN l.n8 WHEN 9 THEN l.n9 WHEN 10 THEN l.n10 WHEN 11 THEN l.n11 WHEN 12 THEN l.n12 WHEN 13 THEN l.n13 WHEN 14 THEN l.n14 WHEN 15 THEN l.n15 END END AS new
  FROM changelog l LEFT JOIN changelog_cols c ON c.tbl=l.tbl AND c.gen=l.gen
  WHERE l.op IN ('I','D','X') OR (l.op='U' AND substr(l.chg,c.pos+1,1)='1');
INSERT OR REPLACE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES('batches',34197735286416,0,'id',1,0),('batches',34197735286416,1,'batch_number',0,0),('batches',34197735286416,2,'induction_date',0,0),('batches',34197735286416,3,'source',0,0),('batches',34197735286416,4,'source_type',0,0),('batches',34197735286416,5,'notes',0,0),('batches',34197735286416,6,'created_at',0,0),('batches',34197735286416,7,'updated_at',0,0);
DROP VIEW IF EXISTS "changelog_of_batches";
CREATE VIEW "changelog_of_batches" AS SELECT seq, at, coalesce(actor,'unknown writer') AS actor, op, key, chg,
  n0 AS "id", o0 AS "old_id",
  n1 AS "batch_number", o1 AS "old_batch_number",
  n2 AS "induction_date", o2 AS "old_induction_date",
  n3 AS "source", o3 AS "old_source",
  n4 AS "source_type", o4 AS "old_source_type",
  n5 AS "notes", o5 AS "old_notes",
  n6 AS "created_at", o6 AS "old_created_at",
  n7 AS "updated_at", o7 AS "old_updated_at"
  FROM changelog WHERE tbl='batches' AND gen=34197735286416;
INSERT OR REPLACE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES('cattle',177051181273382,0,'id',1,0),('cattle',177051181273382,1,'batch_id',0,0),('cattle',177051181273382,2,'cattle_id',0,0),('cattle',177051181273382,3,'sex',0,0),('cattle',177051181273382,4,'weight',0,0),('cattle',177051181273382,5,'health_status',0,0),('cattle',177051181273382,6,'lf_tag',0,0),('cattle',177051181273382,7,'uhf_tag',0,0),('cattle',177051181273382,8,'pen_id',0,0),('cattle',177051181273382,9,'notes',0,0),('cattle',177051181273382,10,'status',0,0),('cattle',177051181273382,11,'induction_date',0,0),('cattle',177051181273382,12,'created_at',0,0),('cattle',177051181273382,13,'updated_at',0,0);
DROP VIEW IF EXISTS "changelog_of_cattle";
CREATE VIEW "changelog_of_cattle" AS SELECT seq, at, coalesce(actor,'unknown writer') AS actor, op, key, chg,
  n0 AS "id", o0 AS "old_id",
  n1 AS "batch_id", o1 AS "old_batch_id",
  n2 AS "cattle_id", o2 AS "old_cattle_id",
  n3 AS "sex", o3 AS "old_sex",
  n4 AS "weight", o4 AS "old_weight",
  n5 AS "health_status", o5 AS "old_health_status",
  n6 AS "lf_tag", o6 AS "old_lf_tag",
  n7 AS "uhf_tag", o7 AS "old_uhf_tag",
  n8 AS "pen_id", o8 AS "old_pen_id",
  n9 AS "notes", o9 AS "old_notes",
  n10 AS "status", o10 AS "old_status",
  n11 AS "induction_date", o11 AS "old_induction_date",
  n12 AS "created_at", o12 AS "old_created_at",
  n13 AS "updated_at", o13 AS "old_updated_at"
  FROM changelog WHERE tbl='cattle' AND gen=177051181273382;
INSERT OR REPLACE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES('lora_payload_buffer',276577111158752,0,'id',1,0),('lora_payload_buffer',276577111158752,1,'raw_payload',0,0),('lora_payload_buffer',276577111158752,2,'source_type',0,0),('lora_payload_buffer',276577111158752,3,'batch_number',0,0),('lora_payload_buffer',276577111158752,4,'lf_tag',0,0),('lora_payload_buffer',276577111158752,5,'uhf_tag',0,0),('lora_payload_buffer',276577111158752,6,'status',0,0),('lora_payload_buffer',276577111158752,7,'batch_id',0,0),('lora_payload_buffer',276577111158752,8,'error_message',0,0),('lora_payload_buffer',276577111158752,9,'received_at',0,0),('lora_payload_buffer',276577111158752,10,'processed_at',0,0),('lora_payload_buffer',276577111158752,11,'rssi',0,0),('lora_payload_buffer',276577111158752,12,'snr',0,0),('lora_payload_buffer',276577111158752,13,'times_received',0,0),('lora_payload_buffer',276577111158752,14,'created_at',0,0),('lora_payload_buffer',276577111158752,15,'updated_at',0,0);
DROP VIEW IF EXISTS "changelog_of_lora_payload_buffer";
CREATE VIEW "changelog_of_lora_payload_buffer" AS SELECT seq, at, coalesce(actor,'unknown writer') AS actor, op, key, chg,
  n0 AS "id", o0 AS "old_id",
  n1 AS "raw_payload", o1 AS "old_raw_payload",
  n2 AS "source_type", o2 AS "old_source_type",
  n3 AS "batch_number", o3 AS "old_batch_number",
  n4 AS "lf_tag", o4 AS "old_lf_tag",
  n5 AS "uhf_tag", o5 AS "old_uhf_tag",
  n6 AS "status", o6 AS "old_status",
  n7 AS "batch_id", o7 AS "old_batch_id",
  n8 AS "error_message", o8 AS "old_error_message",
  n9 AS "received_at", o9 AS "old_received_at",
  n10 AS "processed_at", o10 AS "old_processed_at",
  n11 AS "rssi", o11 AS "old_rssi",
  n12 AS "snr", o12 AS "old_snr",
  n13 AS "times_received", o13 AS "old_times_received",
  n14 AS "created_at", o14 AS "old_created_at",
  n15 AS "updated_at", o15 AS "old_updated_at"
  FROM changelog WHERE tbl='lora_payload_buffer' AND gen=276577111158752;
INSERT OR REPLACE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES('pair_history',227324880745668,0,'id',1,0),('pair_history',227324880745668,1,'cattle_id',0,0),('pair_history',227324880745668,2,'lf_tag',0,0),('pair_history',227324880745668,3,'uhf_tag',0,0),('pair_history',227324880745668,4,'paired_at',0,0),('pair_history',227324880745668,5,'unpaired_at',0,0),('pair_history',227324880745668,6,'updated_by',0,0),('pair_history',227324880745668,7,'created_at',0,0),('pair_history',227324880745668,8,'updated_at',0,0);
DROP VIEW IF EXISTS "changelog_of_pair_history";
CREATE VIEW "changelog_of_pair_history" AS SELECT seq, at, coalesce(actor,'unknown writer') AS actor, op, key, chg,
  n0 AS "id", o0 AS "old_id",
  n1 AS "cattle_id", o1 AS "old_cattle_id",
  n2 AS "lf_tag", o2 AS "old_lf_tag",
  n3 AS "uhf_tag", o3 AS "old_uhf_tag",
  n4 AS "paired_at", o4 AS "old_paired_at",
  n5 AS "unpaired_at", o5 AS "old_unpaired_at",
  n6 AS "updated_by", o6 AS "old_updated_by",
  n7 AS "created_at", o7 AS "old_created_at",
  n8 AS "updated_at", o8 AS "old_updated_at"
  FROM changelog WHERE tbl='pair_history' AND gen=227324880745668;
INSERT OR REPLACE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES('pens',220512822521283,0,'id',1,0),('pens',220512822521283,1,'pen_number',0,0),('pens',220512822521283,2,'capacity',0,0),('pens',220512822521283,3,'description',0,0),('pens',220512822521283,4,'created_at',0,0),('pens',220512822521283,5,'updated_at',0,0);
DROP VIEW IF EXISTS "changelog_of_pens";
CREATE VIEW "changelog_of_pens" AS SELECT seq, at, coalesce(actor,'unknown writer') AS actor, op, key, chg,
  n0 AS "id", o0 AS "old_id",
  n1 AS "pen_number", o1 AS "old_pen_number",
  n2 AS "capacity", o2 AS "old_capacity",
  n3 AS "description", o3 AS "old_description",
  n4 AS "created_at", o4 AS "old_created_at",
  n5 AS "updated_at", o5 AS "old_updated_at"
  FROM changelog WHERE tbl='pens' AND gen=220512822521283;
INSERT OR REPLACE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES('users',77691652881543,0,'id',1,0),('users',77691652881543,1,'username',0,0),('users',77691652881543,2,'email',0,0),('users',77691652881543,3,'password_hash',0,1),('users',77691652881543,4,'role',0,0),('users',77691652881543,5,'is_active',0,0),('users',77691652881543,6,'created_at',0,0),('users',77691652881543,7,'updated_at',0,0);
DROP VIEW IF EXISTS "changelog_of_users";
CREATE VIEW "changelog_of_users" AS SELECT seq, at, coalesce(actor,'unknown writer') AS actor, op, key, chg,
  n0 AS "id", o0 AS "old_id",
  n1 AS "username", o1 AS "old_username",
  n2 AS "email", o2 AS "old_email",
  CASE WHEN n3 IS NOT NULL THEN '***' END AS "password_hash", CASE WHEN o3 IS NOT NULL THEN '***' END AS "old_password_hash",
  n4 AS "role", o4 AS "old_role",
  n5 AS "is_active", o5 AS "old_is_active",
  n6 AS "created_at", o6 AS "old_created_at",
  n7 AS "updated_at", o7 AS "old_updated_at"
  FROM changelog WHERE tbl='users' AND gen=77691652881543;
INSERT OR REPLACE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES('weight_records',267043641078564,0,'id',1,0),('weight_records',267043641078564,1,'cattle_id',0,0),('weight_records',267043641078564,2,'weight',0,0),('weight_records',267043641078564,3,'recorded_at',0,0),('weight_records',267043641078564,4,'recorded_by',0,0),('weight_records',267043641078564,5,'created_at',0,0),('weight_records',267043641078564,6,'updated_at',0,0);
DROP VIEW IF EXISTS "changelog_of_weight_records";
CREATE VIEW "changelog_of_weight_records" AS SELECT seq, at, coalesce(actor,'unknown writer') AS actor, op, key, chg,
  n0 AS "id", o0 AS "old_id",
  n1 AS "cattle_id", o1 AS "old_cattle_id",
  n2 AS "weight", o2 AS "old_weight",
  n3 AS "recorded_at", o3 AS "old_recorded_at",
  n4 AS "recorded_by", o4 AS "old_recorded_by",
  n5 AS "created_at", o5 AS "old_created_at",
  n6 AS "updated_at", o6 AS "old_updated_at"
  FROM changelog WHERE tbl='weight_records' AND gen=267043641078564;
DROP TRIGGER IF EXISTS "_changelog_ai_batches (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_au_batches (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_ad_batches (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bi_batches (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bu_batches (to drop a column: python -m changelog ddl FILE SQL)";
CREATE TRIGGER "_changelog_ai_batches (to drop a column: python -m changelog ddl FILE SQL)" AFTER INSERT ON "batches" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'batches','D',o0,34197735286416,o0,o1,o2,o3,o4,o5,o6,o7 FROM changelog_stash WHERE changelog_stash.tbl='batches' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "batches" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='batches' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "batches" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,n0,n1,n2,n3,n4,n5,n6,n7) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'batches','I',NEW."id",34197735286416,NEW."id",NEW."batch_number",NEW."induction_date",NEW."source",NEW."source_type",NEW."notes",NEW."created_at",NEW."updated_at");
END;
CREATE TRIGGER "_changelog_au_batches (to drop a column: python -m changelog ddl FILE SQL)" AFTER UPDATE ON "batches" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'batches','D',o0,34197735286416,o0,o1,o2,o3,o4,o5,o6,o7 FROM changelog_stash WHERE changelog_stash.tbl='batches' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "batches" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='batches' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "batches" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  UPDATE changelog_stash SET o0=NEW."id",o1=NEW."batch_number",o2=NEW."induction_date",o3=NEW."source",o4=NEW."source_type",o5=NEW."notes",o6=NEW."created_at",o7=NEW."updated_at",rid=NEW."id" WHERE tbl='batches' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,chg,n0,n1,n2,n3,n4,n5,n6,n7,o0,o1,o2,o3,o4,o5,o6,o7) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'batches','U',OLD."id",34197735286416,((((OLD."id" IS NOT NEW."id" OR typeof(OLD."id")<>typeof(NEW."id"))||(OLD."batch_number" IS NOT NEW."batch_number"))||((OLD."induction_date" IS NOT NEW."induction_date")||(OLD."source" IS NOT NEW."source")))||(((OLD."source_type" IS NOT NEW."source_type")||(OLD."notes" IS NOT NEW."notes"))||((OLD."created_at" IS NOT NEW."created_at")||(OLD."updated_at" IS NOT NEW."updated_at")))),NEW."id",NEW."batch_number",NEW."induction_date",NEW."source",NEW."source_type",NEW."notes",NEW."created_at",NEW."updated_at",OLD."id",CASE WHEN (OLD."batch_number" IS NOT NEW."batch_number") THEN OLD."batch_number" END,CASE WHEN (OLD."induction_date" IS NOT NEW."induction_date") THEN OLD."induction_date" END,CASE WHEN (OLD."source" IS NOT NEW."source") THEN OLD."source" END,CASE WHEN (OLD."source_type" IS NOT NEW."source_type") THEN OLD."source_type" END,CASE WHEN (OLD."notes" IS NOT NEW."notes") THEN OLD."notes" END,CASE WHEN (OLD."created_at" IS NOT NEW."created_at") THEN OLD."created_at" END,CASE WHEN (OLD."updated_at" IS NOT NEW."updated_at") THEN OLD."updated_at" END);
END;
CREATE TRIGGER "_changelog_ad_batches (to drop a column: python -m changelog ddl FILE SQL)" AFTER DELETE ON "batches" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'batches','D',OLD."id",34197735286416,OLD."id",OLD."batch_number",OLD."induction_date",OLD."source",OLD."source_type",OLD."notes",OLD."created_at",OLD."updated_at");
  DELETE FROM changelog_stash WHERE tbl='batches' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
END;
CREATE TRIGGER "_changelog_bi_batches (to drop a column: python -m changelog ddl FILE SQL)" BEFORE INSERT ON "batches" WHEN EXISTS(SELECT 1 FROM "batches" x WHERE x."id"=NEW."id") OR EXISTS(SELECT 1 FROM "batches" x WHERE x."batch_number"=NEW."batch_number" COLLATE "BINARY") BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-8;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7) SELECT 'batches',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."batch_number" AS o1,x."induction_date" AS o2,x."source" AS o3,x."source_type" AS o4,x."notes" AS o5,x."created_at" AS o6,x."updated_at" AS o7 FROM "batches" x WHERE x."id"=NEW."id" UNION SELECT x."id" AS rid,x."id" AS o0,x."batch_number" AS o1,x."induction_date" AS o2,x."source" AS o3,x."source_type" AS o4,x."notes" AS o5,x."created_at" AS o6,x."updated_at" AS o7 FROM "batches" x WHERE x."batch_number"=NEW."batch_number" COLLATE "BINARY") c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='batches' AND e.rid=c.rid COLLATE "BINARY");
END;
CREATE TRIGGER "_changelog_bu_batches (to drop a column: python -m changelog ddl FILE SQL)" BEFORE UPDATE OF "batch_number","id",rowid,_rowid_,oid ON "batches" WHEN EXISTS(SELECT 1 FROM "batches" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) OR EXISTS(SELECT 1 FROM "batches" x WHERE x."batch_number"=NEW."batch_number" COLLATE "BINARY" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-8;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7) SELECT 'batches',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."batch_number" AS o1,x."induction_date" AS o2,x."source" AS o3,x."source_type" AS o4,x."notes" AS o5,x."created_at" AS o6,x."updated_at" AS o7 FROM "batches" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY") UNION SELECT x."id" AS rid,x."id" AS o0,x."batch_number" AS o1,x."induction_date" AS o2,x."source" AS o3,x."source_type" AS o4,x."notes" AS o5,x."created_at" AS o6,x."updated_at" AS o7 FROM "batches" x WHERE x."batch_number"=NEW."batch_number" COLLATE "BINARY" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='batches' AND e.rid=c.rid COLLATE "BINARY");
END;
DROP TRIGGER IF EXISTS "_changelog_ai_cattle (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_au_cattle (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_ad_cattle (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bi_cattle (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bu_cattle (to drop a column: python -m changelog ddl FILE SQL)";
CREATE TRIGGER "_changelog_ai_cattle (to drop a column: python -m changelog ddl FILE SQL)" AFTER INSERT ON "cattle" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'cattle','D',o0,177051181273382,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13 FROM changelog_stash WHERE changelog_stash.tbl='cattle' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "cattle" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='cattle' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "cattle" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,n0,n1,n2,n3,n4,n5,n6,n7,n8,n9,n10,n11,n12,n13) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'cattle','I',NEW."id",177051181273382,NEW."id",NEW."batch_id",NEW."cattle_id",NEW."sex",NEW."weight",NEW."health_status",NEW."lf_tag",NEW."uhf_tag",NEW."pen_id",NEW."notes",NEW."status",NEW."induction_date",NEW."created_at",NEW."updated_at");
END;
CREATE TRIGGER "_changelog_au_cattle (to drop a column: python -m changelog ddl FILE SQL)" AFTER UPDATE ON "cattle" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'cattle','D',o0,177051181273382,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13 FROM changelog_stash WHERE changelog_stash.tbl='cattle' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "cattle" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='cattle' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "cattle" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  UPDATE changelog_stash SET o0=NEW."id",o1=NEW."batch_id",o2=NEW."cattle_id",o3=NEW."sex",o4=NEW."weight",o5=NEW."health_status",o6=NEW."lf_tag",o7=NEW."uhf_tag",o8=NEW."pen_id",o9=NEW."notes",o10=NEW."status",o11=NEW."induction_date",o12=NEW."created_at",o13=NEW."updated_at",rid=NEW."id" WHERE tbl='cattle' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,chg,n0,n1,n2,n3,n4,n5,n6,n7,n8,n9,n10,n11,n12,n13,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'cattle','U',OLD."id",177051181273382,((((OLD."id" IS NOT NEW."id" OR typeof(OLD."id")<>typeof(NEW."id"))||((OLD."batch_id" IS NOT NEW."batch_id" OR typeof(OLD."batch_id")<>typeof(NEW."batch_id"))||(OLD."cattle_id" IS NOT NEW."cattle_id")))||(((OLD."sex" IS NOT NEW."sex")||(OLD."weight" IS NOT NEW."weight"))||((OLD."health_status" IS NOT NEW."health_status")||(OLD."lf_tag" IS NOT NEW."lf_tag"))))||(((OLD."uhf_tag" IS NOT NEW."uhf_tag")||((OLD."pen_id" IS NOT NEW."pen_id" OR typeof(OLD."pen_id")<>typeof(NEW."pen_id"))||(OLD."notes" IS NOT NEW."notes")))||(((OLD."status" IS NOT NEW."status")||(OLD."induction_date" IS NOT NEW."induction_date"))||((OLD."created_at" IS NOT NEW."created_at")||(OLD."updated_at" IS NOT NEW."updated_at"))))),NEW."id",NEW."batch_id",NEW."cattle_id",NEW."sex",NEW."weight",NEW."health_status",NEW."lf_tag",NEW."uhf_tag",NEW."pen_id",NEW."notes",NEW."status",NEW."induction_date",NEW."created_at",NEW."updated_at",OLD."id",CASE WHEN (OLD."batch_id" IS NOT NEW."batch_id" OR typeof(OLD."batch_id")<>typeof(NEW."batch_id")) THEN OLD."batch_id" END,CASE WHEN (OLD."cattle_id" IS NOT NEW."cattle_id") THEN OLD."cattle_id" END,CASE WHEN (OLD."sex" IS NOT NEW."sex") THEN OLD."sex" END,CASE WHEN (OLD."weight" IS NOT NEW."weight") THEN OLD."weight" END,CASE WHEN (OLD."health_status" IS NOT NEW."health_status") THEN OLD."health_status" END,CASE WHEN (OLD."lf_tag" IS NOT NEW."lf_tag") THEN OLD."lf_tag" END,CASE WHEN (OLD."uhf_tag" IS NOT NEW."uhf_tag") THEN OLD."uhf_tag" END,CASE WHEN (OLD."pen_id" IS NOT NEW."pen_id" OR typeof(OLD."pen_id")<>typeof(NEW."pen_id")) THEN OLD."pen_id" END,CASE WHEN (OLD."notes" IS NOT NEW."notes") THEN OLD."notes" END,CASE WHEN (OLD."status" IS NOT NEW."status") THEN OLD."status" END,CASE WHEN (OLD."induction_date" IS NOT NEW."induction_date") THEN OLD."induction_date" END,CASE WHEN (OLD."created_at" IS NOT NEW."created_at") THEN OLD."created_at" END,CASE WHEN (OLD."updated_at" IS NOT NEW."updated_at") THEN OLD."updated_at" END);
END;
CREATE TRIGGER "_changelog_ad_cattle (to drop a column: python -m changelog ddl FILE SQL)" AFTER DELETE ON "cattle" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'cattle','D',OLD."id",177051181273382,OLD."id",OLD."batch_id",OLD."cattle_id",OLD."sex",OLD."weight",OLD."health_status",OLD."lf_tag",OLD."uhf_tag",OLD."pen_id",OLD."notes",OLD."status",OLD."induction_date",OLD."created_at",OLD."updated_at");
  DELETE FROM changelog_stash WHERE tbl='cattle' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
END;
CREATE TRIGGER "_changelog_bi_cattle (to drop a column: python -m changelog ddl FILE SQL)" BEFORE INSERT ON "cattle" WHEN EXISTS(SELECT 1 FROM "cattle" x WHERE x."id"=NEW."id") OR EXISTS(SELECT 1 FROM "cattle" x WHERE x."cattle_id"=NEW."cattle_id" COLLATE "BINARY") BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-8;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13) SELECT 'cattle',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."batch_id" AS o1,x."cattle_id" AS o2,x."sex" AS o3,x."weight" AS o4,x."health_status" AS o5,x."lf_tag" AS o6,x."uhf_tag" AS o7,x."pen_id" AS o8,x."notes" AS o9,x."status" AS o10,x."induction_date" AS o11,x."created_at" AS o12,x."updated_at" AS o13 FROM "cattle" x WHERE x."id"=NEW."id" UNION SELECT x."id" AS rid,x."id" AS o0,x."batch_id" AS o1,x."cattle_id" AS o2,x."sex" AS o3,x."weight" AS o4,x."health_status" AS o5,x."lf_tag" AS o6,x."uhf_tag" AS o7,x."pen_id" AS o8,x."notes" AS o9,x."status" AS o10,x."induction_date" AS o11,x."created_at" AS o12,x."updated_at" AS o13 FROM "cattle" x WHERE x."cattle_id"=NEW."cattle_id" COLLATE "BINARY") c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='cattle' AND e.rid=c.rid COLLATE "BINARY");
END;
CREATE TRIGGER "_changelog_bu_cattle (to drop a column: python -m changelog ddl FILE SQL)" BEFORE UPDATE OF "cattle_id","id",rowid,_rowid_,oid ON "cattle" WHEN EXISTS(SELECT 1 FROM "cattle" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) OR EXISTS(SELECT 1 FROM "cattle" x WHERE x."cattle_id"=NEW."cattle_id" COLLATE "BINARY" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-8;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13) SELECT 'cattle',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."batch_id" AS o1,x."cattle_id" AS o2,x."sex" AS o3,x."weight" AS o4,x."health_status" AS o5,x."lf_tag" AS o6,x."uhf_tag" AS o7,x."pen_id" AS o8,x."notes" AS o9,x."status" AS o10,x."induction_date" AS o11,x."created_at" AS o12,x."updated_at" AS o13 FROM "cattle" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY") UNION SELECT x."id" AS rid,x."id" AS o0,x."batch_id" AS o1,x."cattle_id" AS o2,x."sex" AS o3,x."weight" AS o4,x."health_status" AS o5,x."lf_tag" AS o6,x."uhf_tag" AS o7,x."pen_id" AS o8,x."notes" AS o9,x."status" AS o10,x."induction_date" AS o11,x."created_at" AS o12,x."updated_at" AS o13 FROM "cattle" x WHERE x."cattle_id"=NEW."cattle_id" COLLATE "BINARY" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='cattle' AND e.rid=c.rid COLLATE "BINARY");
END;
DROP TRIGGER IF EXISTS "_changelog_ai_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_au_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_ad_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bi_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bu_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)";
CREATE TRIGGER "_changelog_ai_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)" AFTER INSERT ON "lora_payload_buffer" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'lora_payload_buffer','D',o0,276577111158752,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15 FROM changelog_stash WHERE changelog_stash.tbl='lora_payload_buffer' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "lora_payload_buffer" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='lora_payload_buffer' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "lora_payload_buffer" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,n0,n1,n2,n3,n4,n5,n6,n7,n8,n9,n10,n11,n12,n13,n14,n15) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'lora_payload_buffer','I',NEW."id",276577111158752,NEW."id",NEW."raw_payload",NEW."source_type",NEW."batch_number",NEW."lf_tag",NEW."uhf_tag",NEW."status",NEW."batch_id",NEW."error_message",NEW."received_at",NEW."processed_at",NEW."rssi",NEW."snr",NEW."times_received",NEW."created_at",NEW."updated_at");
END;
CREATE TRIGGER "_changelog_au_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)" AFTER UPDATE ON "lora_payload_buffer" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'lora_payload_buffer','D',o0,276577111158752,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15 FROM changelog_stash WHERE changelog_stash.tbl='lora_payload_buffer' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "lora_payload_buffer" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='lora_payload_buffer' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "lora_payload_buffer" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  UPDATE changelog_stash SET o0=NEW."id",o1=NEW."raw_payload",o2=NEW."source_type",o3=NEW."batch_number",o4=NEW."lf_tag",o5=NEW."uhf_tag",o6=NEW."status",o7=NEW."batch_id",o8=NEW."error_message",o9=NEW."received_at",o10=NEW."processed_at",o11=NEW."rssi",o12=NEW."snr",o13=NEW."times_received",o14=NEW."created_at",o15=NEW."updated_at",rid=NEW."id" WHERE tbl='lora_payload_buffer' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,chg,n0,n1,n2,n3,n4,n5,n6,n7,n8,n9,n10,n11,n12,n13,n14,n15,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'lora_payload_buffer','U',OLD."id",276577111158752,(((((OLD."id" IS NOT NEW."id" OR typeof(OLD."id")<>typeof(NEW."id"))||(OLD."raw_payload" IS NOT NEW."raw_payload"))||((OLD."source_type" IS NOT NEW."source_type")||(OLD."batch_number" IS NOT NEW."batch_number")))||(((OLD."lf_tag" IS NOT NEW."lf_tag")||(OLD."uhf_tag" IS NOT NEW."uhf_tag"))||((OLD."status" IS NOT NEW."status")||(OLD."batch_id" IS NOT NEW."batch_id" OR typeof(OLD."batch_id")<>typeof(NEW."batch_id")))))||((((OLD."error_message" IS NOT NEW."error_message")||(OLD."received_at" IS NOT NEW."received_at"))||((OLD."processed_at" IS NOT NEW."processed_at")||(OLD."rssi" IS NOT NEW."rssi")))||(((OLD."snr" IS NOT NEW."snr")||(OLD."times_received" IS NOT NEW."times_received" OR typeof(OLD."times_received")<>typeof(NEW."times_received")))||((OLD."created_at" IS NOT NEW."created_at")||(OLD."updated_at" IS NOT NEW."updated_at"))))),NEW."id",NEW."raw_payload",NEW."source_type",NEW."batch_number",NEW."lf_tag",NEW."uhf_tag",NEW."status",NEW."batch_id",NEW."error_message",NEW."received_at",NEW."processed_at",NEW."rssi",NEW."snr",NEW."times_received",NEW."created_at",NEW."updated_at",OLD."id",CASE WHEN (OLD."raw_payload" IS NOT NEW."raw_payload") THEN OLD."raw_payload" END,CASE WHEN (OLD."source_type" IS NOT NEW."source_type") THEN OLD."source_type" END,CASE WHEN (OLD."batch_number" IS NOT NEW."batch_number") THEN OLD."batch_number" END,CASE WHEN (OLD."lf_tag" IS NOT NEW."lf_tag") THEN OLD."lf_tag" END,CASE WHEN (OLD."uhf_tag" IS NOT NEW."uhf_tag") THEN OLD."uhf_tag" END,CASE WHEN (OLD."status" IS NOT NEW."status") THEN OLD."status" END,CASE WHEN (OLD."batch_id" IS NOT NEW."batch_id" OR typeof(OLD."batch_id")<>typeof(NEW."batch_id")) THEN OLD."batch_id" END,CASE WHEN (OLD."error_message" IS NOT NEW."error_message") THEN OLD."error_message" END,CASE WHEN (OLD."received_at" IS NOT NEW."received_at") THEN OLD."received_at" END,CASE WHEN (OLD."processed_at" IS NOT NEW."processed_at") THEN OLD."processed_at" END,CASE WHEN (OLD."rssi" IS NOT NEW."rssi") THEN OLD."rssi" END,CASE WHEN (OLD."snr" IS NOT NEW."snr") THEN OLD."snr" END,CASE WHEN (OLD."times_received" IS NOT NEW."times_received" OR typeof(OLD."times_received")<>typeof(NEW."times_received")) THEN OLD."times_received" END,CASE WHEN (OLD."created_at" IS NOT NEW."created_at") THEN OLD."created_at" END,CASE WHEN (OLD."updated_at" IS NOT NEW."updated_at") THEN OLD."updated_at" END);
END;
CREATE TRIGGER "_changelog_ad_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)" AFTER DELETE ON "lora_payload_buffer" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'lora_payload_buffer','D',OLD."id",276577111158752,OLD."id",OLD."raw_payload",OLD."source_type",OLD."batch_number",OLD."lf_tag",OLD."uhf_tag",OLD."status",OLD."batch_id",OLD."error_message",OLD."received_at",OLD."processed_at",OLD."rssi",OLD."snr",OLD."times_received",OLD."created_at",OLD."updated_at");
  DELETE FROM changelog_stash WHERE tbl='lora_payload_buffer' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
END;
CREATE TRIGGER "_changelog_bi_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)" BEFORE INSERT ON "lora_payload_buffer" WHEN EXISTS(SELECT 1 FROM "lora_payload_buffer" x WHERE x."id"=NEW."id") BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-6;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15) SELECT 'lora_payload_buffer',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."raw_payload" AS o1,x."source_type" AS o2,x."batch_number" AS o3,x."lf_tag" AS o4,x."uhf_tag" AS o5,x."status" AS o6,x."batch_id" AS o7,x."error_message" AS o8,x."received_at" AS o9,x."processed_at" AS o10,x."rssi" AS o11,x."snr" AS o12,x."times_received" AS o13,x."created_at" AS o14,x."updated_at" AS o15 FROM "lora_payload_buffer" x WHERE x."id"=NEW."id") c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='lora_payload_buffer' AND e.rid=c.rid COLLATE "BINARY");
END;
CREATE TRIGGER "_changelog_bu_lora_payload_buffer (to drop a column: python -m changelog ddl FILE SQL)" BEFORE UPDATE OF "id",rowid,_rowid_,oid ON "lora_payload_buffer" WHEN EXISTS(SELECT 1 FROM "lora_payload_buffer" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-6;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7,o8,o9,o10,o11,o12,o13,o14,o15) SELECT 'lora_payload_buffer',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."raw_payload" AS o1,x."source_type" AS o2,x."batch_number" AS o3,x."lf_tag" AS o4,x."uhf_tag" AS o5,x."status" AS o6,x."batch_id" AS o7,x."error_message" AS o8,x."received_at" AS o9,x."processed_at" AS o10,x."rssi" AS o11,x."snr" AS o12,x."times_received" AS o13,x."created_at" AS o14,x."updated_at" AS o15 FROM "lora_payload_buffer" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='lora_payload_buffer' AND e.rid=c.rid COLLATE "BINARY");
END;
DROP TRIGGER IF EXISTS "_changelog_ai_pair_history (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_au_pair_history (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_ad_pair_history (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bi_pair_history (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bu_pair_history (to drop a column: python -m changelog ddl FILE SQL)";
CREATE TRIGGER "_changelog_ai_pair_history (to drop a column: python -m changelog ddl FILE SQL)" AFTER INSERT ON "pair_history" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pair_history','D',o0,227324880745668,o0,o1,o2,o3,o4,o5,o6,o7,o8 FROM changelog_stash WHERE changelog_stash.tbl='pair_history' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "pair_history" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='pair_history' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "pair_history" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,n0,n1,n2,n3,n4,n5,n6,n7,n8) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pair_history','I',NEW."id",227324880745668,NEW."id",NEW."cattle_id",NEW."lf_tag",NEW."uhf_tag",NEW."paired_at",NEW."unpaired_at",NEW."updated_by",NEW."created_at",NEW."updated_at");
END;
CREATE TRIGGER "_changelog_au_pair_history (to drop a column: python -m changelog ddl FILE SQL)" AFTER UPDATE ON "pair_history" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pair_history','D',o0,227324880745668,o0,o1,o2,o3,o4,o5,o6,o7,o8 FROM changelog_stash WHERE changelog_stash.tbl='pair_history' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "pair_history" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='pair_history' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "pair_history" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  UPDATE changelog_stash SET o0=NEW."id",o1=NEW."cattle_id",o2=NEW."lf_tag",o3=NEW."uhf_tag",o4=NEW."paired_at",o5=NEW."unpaired_at",o6=NEW."updated_by",o7=NEW."created_at",o8=NEW."updated_at",rid=NEW."id" WHERE tbl='pair_history' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,chg,n0,n1,n2,n3,n4,n5,n6,n7,n8,o0,o1,o2,o3,o4,o5,o6,o7,o8) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pair_history','U',OLD."id",227324880745668,((((OLD."id" IS NOT NEW."id" OR typeof(OLD."id")<>typeof(NEW."id"))||(OLD."cattle_id" IS NOT NEW."cattle_id" OR typeof(OLD."cattle_id")<>typeof(NEW."cattle_id")))||((OLD."lf_tag" IS NOT NEW."lf_tag")||(OLD."uhf_tag" IS NOT NEW."uhf_tag")))||(((OLD."paired_at" IS NOT NEW."paired_at")||(OLD."unpaired_at" IS NOT NEW."unpaired_at"))||((OLD."updated_by" IS NOT NEW."updated_by")||((OLD."created_at" IS NOT NEW."created_at")||(OLD."updated_at" IS NOT NEW."updated_at"))))),NEW."id",NEW."cattle_id",NEW."lf_tag",NEW."uhf_tag",NEW."paired_at",NEW."unpaired_at",NEW."updated_by",NEW."created_at",NEW."updated_at",OLD."id",CASE WHEN (OLD."cattle_id" IS NOT NEW."cattle_id" OR typeof(OLD."cattle_id")<>typeof(NEW."cattle_id")) THEN OLD."cattle_id" END,CASE WHEN (OLD."lf_tag" IS NOT NEW."lf_tag") THEN OLD."lf_tag" END,CASE WHEN (OLD."uhf_tag" IS NOT NEW."uhf_tag") THEN OLD."uhf_tag" END,CASE WHEN (OLD."paired_at" IS NOT NEW."paired_at") THEN OLD."paired_at" END,CASE WHEN (OLD."unpaired_at" IS NOT NEW."unpaired_at") THEN OLD."unpaired_at" END,CASE WHEN (OLD."updated_by" IS NOT NEW."updated_by") THEN OLD."updated_by" END,CASE WHEN (OLD."created_at" IS NOT NEW."created_at") THEN OLD."created_at" END,CASE WHEN (OLD."updated_at" IS NOT NEW."updated_at") THEN OLD."updated_at" END);
END;
CREATE TRIGGER "_changelog_ad_pair_history (to drop a column: python -m changelog ddl FILE SQL)" AFTER DELETE ON "pair_history" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7,o8) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pair_history','D',OLD."id",227324880745668,OLD."id",OLD."cattle_id",OLD."lf_tag",OLD."uhf_tag",OLD."paired_at",OLD."unpaired_at",OLD."updated_by",OLD."created_at",OLD."updated_at");
  DELETE FROM changelog_stash WHERE tbl='pair_history' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
END;
CREATE TRIGGER "_changelog_bi_pair_history (to drop a column: python -m changelog ddl FILE SQL)" BEFORE INSERT ON "pair_history" WHEN EXISTS(SELECT 1 FROM "pair_history" x WHERE x."id"=NEW."id") BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-6;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7,o8) SELECT 'pair_history',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."cattle_id" AS o1,x."lf_tag" AS o2,x."uhf_tag" AS o3,x."paired_at" AS o4,x."unpaired_at" AS o5,x."updated_by" AS o6,x."created_at" AS o7,x."updated_at" AS o8 FROM "pair_history" x WHERE x."id"=NEW."id") c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='pair_history' AND e.rid=c.rid COLLATE "BINARY");
END;
CREATE TRIGGER "_changelog_bu_pair_history (to drop a column: python -m changelog ddl FILE SQL)" BEFORE UPDATE OF "id",rowid,_rowid_,oid ON "pair_history" WHEN EXISTS(SELECT 1 FROM "pair_history" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-6;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7,o8) SELECT 'pair_history',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."cattle_id" AS o1,x."lf_tag" AS o2,x."uhf_tag" AS o3,x."paired_at" AS o4,x."unpaired_at" AS o5,x."updated_by" AS o6,x."created_at" AS o7,x."updated_at" AS o8 FROM "pair_history" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='pair_history' AND e.rid=c.rid COLLATE "BINARY");
END;
DROP TRIGGER IF EXISTS "_changelog_ai_pens (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_au_pens (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_ad_pens (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bi_pens (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bu_pens (to drop a column: python -m changelog ddl FILE SQL)";
CREATE TRIGGER "_changelog_ai_pens (to drop a column: python -m changelog ddl FILE SQL)" AFTER INSERT ON "pens" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pens','D',o0,220512822521283,o0,o1,o2,o3,o4,o5 FROM changelog_stash WHERE changelog_stash.tbl='pens' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "pens" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='pens' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "pens" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,n0,n1,n2,n3,n4,n5) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pens','I',NEW."id",220512822521283,NEW."id",NEW."pen_number",NEW."capacity",NEW."description",NEW."created_at",NEW."updated_at");
END;
CREATE TRIGGER "_changelog_au_pens (to drop a column: python -m changelog ddl FILE SQL)" AFTER UPDATE ON "pens" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pens','D',o0,220512822521283,o0,o1,o2,o3,o4,o5 FROM changelog_stash WHERE changelog_stash.tbl='pens' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "pens" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='pens' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "pens" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  UPDATE changelog_stash SET o0=NEW."id",o1=NEW."pen_number",o2=NEW."capacity",o3=NEW."description",o4=NEW."created_at",o5=NEW."updated_at",rid=NEW."id" WHERE tbl='pens' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,chg,n0,n1,n2,n3,n4,n5,o0,o1,o2,o3,o4,o5) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pens','U',OLD."id",220512822521283,(((OLD."id" IS NOT NEW."id" OR typeof(OLD."id")<>typeof(NEW."id"))||((OLD."pen_number" IS NOT NEW."pen_number")||(OLD."capacity" IS NOT NEW."capacity" OR typeof(OLD."capacity")<>typeof(NEW."capacity"))))||((OLD."description" IS NOT NEW."description")||((OLD."created_at" IS NOT NEW."created_at")||(OLD."updated_at" IS NOT NEW."updated_at")))),NEW."id",NEW."pen_number",NEW."capacity",NEW."description",NEW."created_at",NEW."updated_at",OLD."id",CASE WHEN (OLD."pen_number" IS NOT NEW."pen_number") THEN OLD."pen_number" END,CASE WHEN (OLD."capacity" IS NOT NEW."capacity" OR typeof(OLD."capacity")<>typeof(NEW."capacity")) THEN OLD."capacity" END,CASE WHEN (OLD."description" IS NOT NEW."description") THEN OLD."description" END,CASE WHEN (OLD."created_at" IS NOT NEW."created_at") THEN OLD."created_at" END,CASE WHEN (OLD."updated_at" IS NOT NEW."updated_at") THEN OLD."updated_at" END);
END;
CREATE TRIGGER "_changelog_ad_pens (to drop a column: python -m changelog ddl FILE SQL)" AFTER DELETE ON "pens" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'pens','D',OLD."id",220512822521283,OLD."id",OLD."pen_number",OLD."capacity",OLD."description",OLD."created_at",OLD."updated_at");
  DELETE FROM changelog_stash WHERE tbl='pens' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
END;
CREATE TRIGGER "_changelog_bi_pens (to drop a column: python -m changelog ddl FILE SQL)" BEFORE INSERT ON "pens" WHEN EXISTS(SELECT 1 FROM "pens" x WHERE x."id"=NEW."id") OR EXISTS(SELECT 1 FROM "pens" x WHERE x."pen_number"=NEW."pen_number" COLLATE "BINARY") BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-8;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5) SELECT 'pens',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."pen_number" AS o1,x."capacity" AS o2,x."description" AS o3,x."created_at" AS o4,x."updated_at" AS o5 FROM "pens" x WHERE x."id"=NEW."id" UNION SELECT x."id" AS rid,x."id" AS o0,x."pen_number" AS o1,x."capacity" AS o2,x."description" AS o3,x."created_at" AS o4,x."updated_at" AS o5 FROM "pens" x WHERE x."pen_number"=NEW."pen_number" COLLATE "BINARY") c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='pens' AND e.rid=c.rid COLLATE "BINARY");
END;
CREATE TRIGGER "_changelog_bu_pens (to drop a column: python -m changelog ddl FILE SQL)" BEFORE UPDATE OF "pen_number","id",rowid,_rowid_,oid ON "pens" WHEN EXISTS(SELECT 1 FROM "pens" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) OR EXISTS(SELECT 1 FROM "pens" x WHERE x."pen_number"=NEW."pen_number" COLLATE "BINARY" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-8;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5) SELECT 'pens',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."pen_number" AS o1,x."capacity" AS o2,x."description" AS o3,x."created_at" AS o4,x."updated_at" AS o5 FROM "pens" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY") UNION SELECT x."id" AS rid,x."id" AS o0,x."pen_number" AS o1,x."capacity" AS o2,x."description" AS o3,x."created_at" AS o4,x."updated_at" AS o5 FROM "pens" x WHERE x."pen_number"=NEW."pen_number" COLLATE "BINARY" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='pens' AND e.rid=c.rid COLLATE "BINARY");
END;
DROP TRIGGER IF EXISTS "_changelog_ai_users (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_au_users (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_ad_users (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bi_users (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bu_users (to drop a column: python -m changelog ddl FILE SQL)";
CREATE TRIGGER "_changelog_ai_users (to drop a column: python -m changelog ddl FILE SQL)" AFTER INSERT ON "users" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'users','D',o0,77691652881543,o0,o1,o2,o3,o4,o5,o6,o7 FROM changelog_stash WHERE changelog_stash.tbl='users' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "users" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='users' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "users" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,n0,n1,n2,n3,n4,n5,n6,n7) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'users','I',NEW."id",77691652881543,NEW."id",NEW."username",NEW."email",NEW."password_hash",NEW."role",NEW."is_active",NEW."created_at",NEW."updated_at");
END;
CREATE TRIGGER "_changelog_au_users (to drop a column: python -m changelog ddl FILE SQL)" AFTER UPDATE ON "users" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'users','D',o0,77691652881543,o0,o1,o2,o3,o4,o5,o6,o7 FROM changelog_stash WHERE changelog_stash.tbl='users' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "users" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='users' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "users" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  UPDATE changelog_stash SET o0=NEW."id",o1=NEW."username",o2=NEW."email",o3=NEW."password_hash",o4=NEW."role",o5=NEW."is_active",o6=NEW."created_at",o7=NEW."updated_at",rid=NEW."id" WHERE tbl='users' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,chg,n0,n1,n2,n3,n4,n5,n6,n7,o0,o1,o2,o3,o4,o5,o6,o7) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'users','U',OLD."id",77691652881543,((((OLD."id" IS NOT NEW."id" OR typeof(OLD."id")<>typeof(NEW."id"))||(OLD."username" IS NOT NEW."username"))||((OLD."email" IS NOT NEW."email")||(OLD."password_hash" IS NOT NEW."password_hash")))||(((OLD."role" IS NOT NEW."role")||(OLD."is_active" IS NOT NEW."is_active" OR typeof(OLD."is_active")<>typeof(NEW."is_active")))||((OLD."created_at" IS NOT NEW."created_at")||(OLD."updated_at" IS NOT NEW."updated_at")))),NEW."id",NEW."username",NEW."email",NEW."password_hash",NEW."role",NEW."is_active",NEW."created_at",NEW."updated_at",OLD."id",CASE WHEN (OLD."username" IS NOT NEW."username") THEN OLD."username" END,CASE WHEN (OLD."email" IS NOT NEW."email") THEN OLD."email" END,CASE WHEN (OLD."password_hash" IS NOT NEW."password_hash") THEN OLD."password_hash" END,CASE WHEN (OLD."role" IS NOT NEW."role") THEN OLD."role" END,CASE WHEN (OLD."is_active" IS NOT NEW."is_active" OR typeof(OLD."is_active")<>typeof(NEW."is_active")) THEN OLD."is_active" END,CASE WHEN (OLD."created_at" IS NOT NEW."created_at") THEN OLD."created_at" END,CASE WHEN (OLD."updated_at" IS NOT NEW."updated_at") THEN OLD."updated_at" END);
END;
CREATE TRIGGER "_changelog_ad_users (to drop a column: python -m changelog ddl FILE SQL)" AFTER DELETE ON "users" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6,o7) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'users','D',OLD."id",77691652881543,OLD."id",OLD."username",OLD."email",OLD."password_hash",OLD."role",OLD."is_active",OLD."created_at",OLD."updated_at");
  DELETE FROM changelog_stash WHERE tbl='users' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
END;
CREATE TRIGGER "_changelog_bi_users (to drop a column: python -m changelog ddl FILE SQL)" BEFORE INSERT ON "users" WHEN EXISTS(SELECT 1 FROM "users" x WHERE x."id"=NEW."id") OR EXISTS(SELECT 1 FROM "users" x WHERE x."username"=NEW."username" COLLATE "BINARY") BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-8;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7) SELECT 'users',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."username" AS o1,x."email" AS o2,x."password_hash" AS o3,x."role" AS o4,x."is_active" AS o5,x."created_at" AS o6,x."updated_at" AS o7 FROM "users" x WHERE x."id"=NEW."id" UNION SELECT x."id" AS rid,x."id" AS o0,x."username" AS o1,x."email" AS o2,x."password_hash" AS o3,x."role" AS o4,x."is_active" AS o5,x."created_at" AS o6,x."updated_at" AS o7 FROM "users" x WHERE x."username"=NEW."username" COLLATE "BINARY") c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='users' AND e.rid=c.rid COLLATE "BINARY");
END;
CREATE TRIGGER "_changelog_bu_users (to drop a column: python -m changelog ddl FILE SQL)" BEFORE UPDATE OF "username","id",rowid,_rowid_,oid ON "users" WHEN EXISTS(SELECT 1 FROM "users" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) OR EXISTS(SELECT 1 FROM "users" x WHERE x."username"=NEW."username" COLLATE "BINARY" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-8;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6,o7) SELECT 'users',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."username" AS o1,x."email" AS o2,x."password_hash" AS o3,x."role" AS o4,x."is_active" AS o5,x."created_at" AS o6,x."updated_at" AS o7 FROM "users" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY") UNION SELECT x."id" AS rid,x."id" AS o0,x."username" AS o1,x."email" AS o2,x."password_hash" AS o3,x."role" AS o4,x."is_active" AS o5,x."created_at" AS o6,x."updated_at" AS o7 FROM "users" x WHERE x."username"=NEW."username" COLLATE "BINARY" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='users' AND e.rid=c.rid COLLATE "BINARY");
END;
DROP TRIGGER IF EXISTS "_changelog_ai_weight_records (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_au_weight_records (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_ad_weight_records (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bi_weight_records (to drop a column: python -m changelog ddl FILE SQL)";
DROP TRIGGER IF EXISTS "_changelog_bu_weight_records (to drop a column: python -m changelog ddl FILE SQL)";
CREATE TRIGGER "_changelog_ai_weight_records (to drop a column: python -m changelog ddl FILE SQL)" AFTER INSERT ON "weight_records" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'weight_records','D',o0,267043641078564,o0,o1,o2,o3,o4,o5,o6 FROM changelog_stash WHERE changelog_stash.tbl='weight_records' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "weight_records" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='weight_records' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "weight_records" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY"));
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,n0,n1,n2,n3,n4,n5,n6) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'weight_records','I',NEW."id",267043641078564,NEW."id",NEW."cattle_id",NEW."weight",NEW."recorded_at",NEW."recorded_by",NEW."created_at",NEW."updated_at");
END;
CREATE TRIGGER "_changelog_au_weight_records (to drop a column: python -m changelog ddl FILE SQL)" AFTER UPDATE ON "weight_records" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6) SELECT strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'weight_records','D',o0,267043641078564,o0,o1,o2,o3,o4,o5,o6 FROM changelog_stash WHERE changelog_stash.tbl='weight_records' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "weight_records" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  DELETE FROM changelog_stash WHERE changelog_stash.tbl='weight_records' AND (NEW."id"=changelog_stash.rid COLLATE "BINARY" OR NOT EXISTS(SELECT 1 FROM "weight_records" y WHERE y."id"=changelog_stash.rid COLLATE "BINARY")) AND NOT (OLD."id"=changelog_stash.rid COLLATE "BINARY");
  UPDATE changelog_stash SET o0=NEW."id",o1=NEW."cattle_id",o2=NEW."weight",o3=NEW."recorded_at",o4=NEW."recorded_by",o5=NEW."created_at",o6=NEW."updated_at",rid=NEW."id" WHERE tbl='weight_records' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,chg,n0,n1,n2,n3,n4,n5,n6,o0,o1,o2,o3,o4,o5,o6) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'weight_records','U',OLD."id",267043641078564,(((OLD."id" IS NOT NEW."id" OR typeof(OLD."id")<>typeof(NEW."id"))||((OLD."cattle_id" IS NOT NEW."cattle_id" OR typeof(OLD."cattle_id")<>typeof(NEW."cattle_id"))||(OLD."weight" IS NOT NEW."weight")))||(((OLD."recorded_at" IS NOT NEW."recorded_at")||(OLD."recorded_by" IS NOT NEW."recorded_by"))||((OLD."created_at" IS NOT NEW."created_at")||(OLD."updated_at" IS NOT NEW."updated_at")))),NEW."id",NEW."cattle_id",NEW."weight",NEW."recorded_at",NEW."recorded_by",NEW."created_at",NEW."updated_at",OLD."id",CASE WHEN (OLD."cattle_id" IS NOT NEW."cattle_id" OR typeof(OLD."cattle_id")<>typeof(NEW."cattle_id")) THEN OLD."cattle_id" END,CASE WHEN (OLD."weight" IS NOT NEW."weight") THEN OLD."weight" END,CASE WHEN (OLD."recorded_at" IS NOT NEW."recorded_at") THEN OLD."recorded_at" END,CASE WHEN (OLD."recorded_by" IS NOT NEW."recorded_by") THEN OLD."recorded_by" END,CASE WHEN (OLD."created_at" IS NOT NEW."created_at") THEN OLD."created_at" END,CASE WHEN (OLD."updated_at" IS NOT NEW."updated_at") THEN OLD."updated_at" END);
END;
CREATE TRIGGER "_changelog_ad_weight_records (to drop a column: python -m changelog ddl FILE SQL)" AFTER DELETE ON "weight_records" BEGIN
  INSERT INTO changelog(at,nonce,tbl,op,key,gen,o0,o1,o2,o3,o4,o5,o6) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'weight_records','D',OLD."id",267043641078564,OLD."id",OLD."cattle_id",OLD."weight",OLD."recorded_at",OLD."recorded_by",OLD."created_at",OLD."updated_at");
  DELETE FROM changelog_stash WHERE tbl='weight_records' AND OLD."id"=changelog_stash.rid COLLATE "BINARY";
END;
CREATE TRIGGER "_changelog_bi_weight_records (to drop a column: python -m changelog ddl FILE SQL)" BEFORE INSERT ON "weight_records" WHEN EXISTS(SELECT 1 FROM "weight_records" x WHERE x."id"=NEW."id") BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-6;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6) SELECT 'weight_records',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."cattle_id" AS o1,x."weight" AS o2,x."recorded_at" AS o3,x."recorded_by" AS o4,x."created_at" AS o5,x."updated_at" AS o6 FROM "weight_records" x WHERE x."id"=NEW."id") c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='weight_records' AND e.rid=c.rid COLLATE "BINARY");
END;
CREATE TRIGGER "_changelog_bu_weight_records (to drop a column: python -m changelog ddl FILE SQL)" BEFORE UPDATE OF "id",rowid,_rowid_,oid ON "weight_records" WHEN EXISTS(SELECT 1 FROM "weight_records" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) BEGIN
  DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-6;
  INSERT INTO changelog_stash(tbl,rid,o0,o1,o2,o3,o4,o5,o6) SELECT 'weight_records',c.* FROM (SELECT x."id" AS rid,x."id" AS o0,x."cattle_id" AS o1,x."weight" AS o2,x."recorded_at" AS o3,x."recorded_by" AS o4,x."created_at" AS o5,x."updated_at" AS o6 FROM "weight_records" x WHERE x."id"=NEW."id" AND NOT (x."id"=OLD."id" COLLATE "BINARY")) c WHERE NOT EXISTS(SELECT 1 FROM changelog_stash e WHERE e.tbl='weight_records' AND e.rid=c.rid COLLATE "BINARY");
END;
CREATE INDEX changelog_local_birth ON changelog_meta(name);
DROP INDEX changelog_local_birth;
INSERT INTO changelog_meta(name,value,seq) SELECT 'ancestor',value,(SELECT max(seq) FROM changelog) FROM changelog_meta WHERE name='epoch';
DELETE FROM changelog_meta WHERE name='epoch';
INSERT INTO changelog(at,nonce,op,key) VALUES(strftime('%Y-%m-%dT%H:%M:%fZ','now'),random() & 9007199254740991,'B',lower(hex(randomblob(16))));
INSERT INTO changelog_meta(name,value,seq) SELECT 'epoch',key,seq FROM changelog ORDER BY seq DESC LIMIT 1;
DELETE FROM changelog_meta WHERE name IN ('schema_version','schema');
INSERT INTO changelog_meta(name,value) SELECT 'schema_version',schema_version FROM pragma_schema_version;
INSERT INTO changelog_meta(name,value) SELECT 'schema',(SELECT json_object(
  'version', (SELECT schema_version FROM pragma_schema_version),
  'objects', json((SELECT json_group_array(json_array(type, name, tbl_name, sql)) FROM
    (SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid))),
  'columns', json((SELECT json_group_object(name, json(cols)) FROM
    (SELECT s.name, (SELECT json_group_array(json_array(c.name, c.hidden)) FROM
      (SELECT name, hidden FROM pragma_table_xinfo(s.name) ORDER BY cid) c) AS cols FROM sqlite_schema s WHERE s.type='table'))),
  'roots', json((SELECT json_group_object(name, rootpage) FROM sqlite_schema WHERE type='table')),
  'shadows', json((SELECT json_group_array(name) FROM pragma_table_list WHERE schema='main' AND type='shadow'))));
COMMIT;
