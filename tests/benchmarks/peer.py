"""The original's algorithm, as a peer: drafts are rows; drafts and sessions are loaded, compared, saved singly."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Engine, Text, Uuid, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

_INSERT_BATCH = 100
_PRICES = {"small": Decimal("0.1"), "medium": Decimal("0.2"), "large": Decimal("0.5"), "xlarge": Decimal(1)}


class Base(DeclarativeBase):
    """The peer's tables."""


class Instance(Base):
    """The sessions, as the system has them."""

    __tablename__ = "workspace_instance"
    instance_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    attribution_id: Mapped[str] = mapped_column(Text)
    workspace_class: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    stopped_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Usage(Base):
    """The usage of a session, a draft until the session has stopped."""

    __tablename__ = "peer_usage"
    usage_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    attribution_id: Mapped[str] = mapped_column(Text)
    credit_cents: Mapped[int] = mapped_column(BigInteger)
    effective_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    draft: Mapped[bool]


def make_drafts(engine: Engine, since: datetime, at: datetime) -> None:
    """Insert the drafts that the previous tick would have left: one for every session that ran."""
    Base.metadata.create_all(engine, tables=[Base.metadata.tables["peer_usage"]])
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE peer_usage"))
        connection.execute(
            text(
                "INSERT INTO peer_usage SELECT instance_id, attribution_id, 0, :at, true FROM workspace_instance "
                "WHERE started_at >= :since"
            ),
            {"at": at, "since": since},
        )


def reconcile(engine: Engine, since: datetime, at: datetime) -> int:
    """Load drafts and newly stopped sessions, price in the process, insert by hundreds, save updates one by one."""
    with Session(engine) as session:
        drafts = {row.usage_id: row for row in session.scalars(select(Usage).where(Usage.draft))}
        instances = session.scalars(select(Instance).where(Instance.started_at >= since)).all()
        new = []
        for instance in instances:
            ended = instance.stopped_at or at
            cents = _cents(instance.workspace_class, max(0.0, (ended - instance.started_at).total_seconds()))
            record = drafts.get(instance.instance_id)
            if record is None:
                new.append(_usage(instance, cents, ended))
                continue
            record.credit_cents, record.effective_at = cents, ended
            record.draft = instance.stopped_at is None
            session.flush([record])
        for start in range(0, len(new), _INSERT_BATCH):
            session.add_all(new[start : start + _INSERT_BATCH])
            session.flush()
        session.commit()
        return len(instances)


def _usage(instance: Instance, cents: int, ended: datetime) -> Usage:
    return Usage(
        usage_id=instance.instance_id,
        attribution_id=instance.attribution_id,
        credit_cents=cents,
        effective_at=ended,
        draft=instance.stopped_at is None,
    )


def _cents(workspace_class: str, seconds: float) -> int:
    return int(Decimal(seconds) / 60 * _PRICES[workspace_class] * 100)
