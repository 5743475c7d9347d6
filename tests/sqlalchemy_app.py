"""An office program as it was before, with Flask-SQLAlchemy: `python tests/sqlalchemy_app.py URI`; each line on stdin is a request.

Its models are those that the users of the earlier system have. SQLAlchemy opens files by the standard library's sqlite3, so this is never
imported. Nothing in it knows that the file is a replica, but for the address of the database.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from flask import Flask, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import OperationalError

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = sys.argv[1]
db = SQLAlchemy(app)


class Batch(db.Model):  # type: ignore[name-defined]
    __tablename__ = "batches"
    id = db.Column(db.Integer, primary_key=True)
    batch_number = db.Column(db.String(50), unique=True, nullable=False)
    induction_date = db.Column(db.Date, nullable=False)
    source = db.Column(db.String(200))
    source_type = db.Column(db.String(10))
    notes = db.Column(db.Text)
    created_at = db.Column(db.DateTime)
    updated_at = db.Column(db.DateTime)
    cattle = db.relationship("Cattle", back_populates="batch", order_by="Cattle.id")


class Pen(db.Model):  # type: ignore[name-defined]
    __tablename__ = "pens"
    id = db.Column(db.Integer, primary_key=True)
    pen_number = db.Column(db.String(50), unique=True, nullable=False)
    capacity = db.Column(db.Integer, nullable=False)
    description = db.Column(db.Text)
    cattle = db.relationship("Cattle", back_populates="pen", lazy="dynamic")


class Cattle(db.Model):  # type: ignore[name-defined]
    __tablename__ = "cattle"
    id = db.Column(db.Integer, primary_key=True)
    batch_id = db.Column(db.Integer, db.ForeignKey("batches.id"), nullable=False)
    cattle_id = db.Column(db.String(100), unique=True, nullable=False)
    sex = db.Column(db.String(10))
    weight = db.Column(db.Float)
    health_status = db.Column(db.String(50))
    lf_tag = db.Column(db.String(100))
    uhf_tag = db.Column(db.String(100))
    pen_id = db.Column(db.Integer, db.ForeignKey("pens.id"))
    status = db.Column(db.String(20))
    induction_date = db.Column(db.DateTime)
    batch = db.relationship("Batch", back_populates="cattle")
    pen = db.relationship("Pen", back_populates="cattle")
    weights = db.relationship("WeightRecord", back_populates="animal", order_by="WeightRecord.recorded_at")


class WeightRecord(db.Model):  # type: ignore[name-defined]
    __tablename__ = "weight_records"
    id = db.Column(db.Integer, primary_key=True)
    cattle_id = db.Column(db.Integer, db.ForeignKey("cattle.id"), nullable=False)
    weight = db.Column(db.Float, nullable=False)
    recorded_at = db.Column(db.DateTime)
    animal = db.relationship("Cattle", back_populates="weights")


def as_dict(row: Any) -> dict[str, Any]:
    """The columns of a row, times as text."""
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}


@app.get("/batches")
def batches() -> Any:
    """As the user's document has it."""
    return jsonify([as_dict(batch) for batch in Batch.query.all()])


@app.get("/batches/<number>")
def batch(number: str) -> Any:
    """A filter and a relationship."""
    found = Batch.query.filter_by(batch_number=number).first_or_404()
    return jsonify({"date": found.induction_date.isoformat(), "animals": [animal.cattle_id for animal in found.cattle]})


@app.get("/cattle")
def cattle() -> Any:
    """Filters, a join, an order and a page."""
    query = Cattle.query.join(Batch).filter(Batch.batch_number.like(request.args["batch"] + "%"), Cattle.weight.isnot(None))
    page = query.order_by(Cattle.weight.desc(), Cattle.id).paginate(page=int(request.args["page"]), per_page=2)
    return jsonify({"total": page.total, "animals": [animal.cattle_id for animal in page.items]})


@app.get("/pens")
def pens() -> Any:
    """A dynamic relationship and an aggregate."""
    counted = db.session.query(Pen.pen_number, db.func.count(Cattle.id)).outerjoin(Cattle).group_by(Pen.id).order_by(Pen.id)
    return jsonify({pen: [number, Pen.query.filter_by(pen_number=pen).one().cattle.count()] for pen, number in counted})


@app.get("/weights/<animal>")
def weights(animal: str) -> Any:
    """From an animal to its weights and back."""
    found = Cattle.query.filter(Cattle.cattle_id == animal).one()
    return jsonify([[each.weight, each.recorded_at.isoformat(), each.animal.batch.batch_number] for each in found.weights])


@app.get("/write")
def write() -> Any:
    """What must not be possible."""
    db.session.add(Pen(pen_number="P-written", capacity=1))
    try:
        db.session.commit()
    except OperationalError as exc:
        db.session.rollback()
        return jsonify(str(exc.orig))
    return jsonify("written")


if __name__ == "__main__":
    client = app.test_client()
    for line in sys.stdin:
        answer = client.get(line.strip())
        print(json.dumps([answer.status_code, answer.json]), flush=True)
