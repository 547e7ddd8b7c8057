"""What crosses the line between a front process and a worker: plain data, nothing else.

A front sends requests, a worker answers with replies that carry the request's `job`.  Every struct is tagged, so one decoder reads
a whole direction (`REQUEST`, `REPLY`).  Workers know nothing of SQL, sessions or sockets of clients; fronts know nothing of torch.

    front                                   worker
      Predict(job, artifact, images)  --->
                                      <---   Predicted(job, classes, scores, failures)
      Build(job, architecture, spool) --->
                                      <---   Progress(job, …)  (once an epoch, and at least every 10 s)
                                      <---   Remark(job, …)    (what the client should know)
                                      <---   Built(job, artifact, …)
      Identify(job, images)           --->
                                      <---   Identified(job, identities)
      Export(job, artifact, file)     --->
                                      <---   Exported(job, size_bytes, sha256)
      Upload(job, file, …)            --->
                                      <---   Built(job, artifact, …)
      Cancel(job)                     --->
                                      <---   Failed(job, sqlstate '57014', …)
      Ping(job)                       --->
                                      <---   Pong(job, at_work)

Structs are `msgspec.Struct`s: typed on decode, so a malformed frame is an error at the border and not an AttributeError inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    Image: TypeAlias = str | bytes | None
    """One image as the row names it: a path or URL, the encoded bytes themselves, or NULL."""
else:
    # msgspec refuses the union of str and bytes because JSON cannot tell them apart; msgpack can.
    Image = Any

Tune = Literal["auto", "full", "head"]
Phase = Literal[
    "reading", "queued", "loading", "features", "head", "training", "validating", "evaluating", "saving", "exporting", "uploading"
]
"""What a job is at, in this order; the first, and those of an EVALUATE, EXPORT or UPLOAD, a front tells by itself."""

Vector = Literal["features", "probabilities"]
"""What a model can say of an image in numbers: the input of its last layer, or the probability of each class."""


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What BUILD and FIT may vary; None means the architecture's own recipe decides."""

    epochs: int = 3
    batch_size: int | None = None
    learning_rate: float | None = None
    input_size: int | None = None
    color: Literal["RGB", "GRAY"] = "RGB"
    pretrained: bool = True
    weights: str | None = None
    tune: Tune = "auto"
    seed: int = 0
    augment: bool = True
    validation_split: float = 0.2
    early_stopping: int | None = None
    class_weights: Literal["balanced"] | tuple[float, ...] | None = "balanced"
    max_seconds: float | None = None


class Predict(msgspec.Struct, frozen=True, tag="predict"):
    """Classify `images` with the model in `artifact` (its content hash); `bulk` ones yield to the others at batch boundaries.

    `top_k` best classes of each are answered, and its `vector` where one is asked for.  With `cache`, what is known from before need
    not be computed.  At most `most` images are computed: the answer ends before the first row that would need one more.
    A statement has several under way at once, whose jobs have one name before a dot.
    """

    job: str
    artifact: str
    images: list[Image]
    top_k: int = 1
    batch_size: int | None = None
    bulk: bool = True
    vector: Vector | None = None
    cache: bool = False
    most: int | None = None

    @property
    def statement(self) -> str:
        """Of which this is a part."""
        return self.job.partition(".")[0]

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """What the answer is made of."""
        if self.vector == "features":
            return ("features", "probabilities") if self.top_k else ("features",)
        return ("probabilities",)

    def __post_init__(self) -> None:
        if not all(image is None or isinstance(image, (str, bytes)) for image in self.images):
            raise TypeError("an image is text, bytes or NULL")


class Build(msgspec.Struct, frozen=True, tag="build"):
    """Train `architecture` on the rows spooled in the file `spool` (see `thanoproxy.workers.spool`).

    A FIT names the artifact it begins with as `start`; then architecture, input size and colour are that artifact's.  In the file
    `checkpoint` the worker keeps how far it is, and goes on from there if it finds one: so the same request after a worker's death
    ends as if nothing had happened.
    """

    job: str
    architecture: str
    spool: str
    options: TrainOptions
    start: str | None = None
    checkpoint: str | None = None


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop `job` at the next batch; unknown jobs are ignored, since a cancel may cross its reply."""

    job: str


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Verify `artifact` and make it resident, so that the first row does not pay for it."""

    job: str
    artifact: str


class Identify(msgspec.Struct, frozen=True, tag="identify"):
    """Say of each of `images` what changes when it does, without reading it."""

    job: str
    images: list[Image]


class Export(msgspec.Struct, frozen=True, tag="export"):
    """Write `artifact`, weights and manifest, into the new file `file` below the file roots."""

    job: str
    artifact: str
    file: str


class Upload(msgspec.Struct, frozen=True, kw_only=True, tag="upload"):
    """Make an artifact of a file below the file roots; the rest is for one that holds weights alone."""

    job: str
    file: str
    architecture: str | None = None
    classes: list[str] | None = None
    input_size: int | None = None


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Are you there, and what are you at?"""

    job: str


Request = Predict | Build | Cancel | Load | Identify | Export | Upload | Ping


class Failure(msgspec.Struct, frozen=True):
    """An error as plain fields; `thanoproxy.errors.ThanoError.from_fields` makes the exception of it."""

    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None
    position: int | None = None
    row: int | None = None


class Predicted(msgspec.Struct, frozen=True, tag="predicted"):
    """One entry per image, in order: the class indices and their probabilities, best first (`top_k` of them), or None for a NULL
    image and for an image listed in `failures` (keyed by its index in the request).  `device` is where they were predicted; `computed`
    images were read for it, the others were known.  Where more than `most` would be, it has an entry for the first images only.

    `vectors` is empty unless they were asked for; each is of float32, the least significant byte first.
    """

    job: str
    classes: list[tuple[int, ...] | None]
    scores: list[tuple[float, ...] | None]
    failures: dict[int, Failure] = {}
    device: str = ""
    vectors: list[bytes | None] = []
    computed: int = 0


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One row of thanosql.training_log."""

    epoch: int
    loss: float
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far a BUILD is.  `images_total` counts over all epochs; `epoch` is set on the report that ends one."""

    job: str
    phase: Phase
    images_done: int
    images_total: int
    images_per_second: float
    loss: float | None = None
    accuracy: float | None = None
    seconds_left: float | None = None
    epoch: Epoch | None = None


class Remark(msgspec.Struct, frozen=True, kw_only=True, tag="remark"):
    """What the client of a BUILD should know, as a notice; the job goes on."""

    job: str
    severity: Literal["NOTICE", "WARNING"]
    message: str
    detail: str | None = None


class Built(msgspec.Struct, frozen=True, kw_only=True, tag="built"):
    """A finished BUILD or Upload: the artifact is on disk, fsynced, and named by its content hash."""

    job: str
    artifact: str
    architecture: str
    classes: list[str]
    images: int
    metrics: dict[str, float | None]
    options: dict[str, object]
    size_bytes: int
    seconds: float
    log: list[Epoch]


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is resident.  `batch` is how many images its device likes to have at once."""

    job: str
    classes: list[str]
    batch: int = 1


class Identified(msgspec.Struct, frozen=True, tag="identified"):
    """See `thanoproxy.images.source.Source.identity`; None for an image that is not there."""

    job: str
    identities: list[str | None]


class Exported(msgspec.Struct, frozen=True, tag="exported"):
    """The file is on disk, fsynced; `sha256` is its own."""

    job: str
    size_bytes: int
    sha256: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The job is over and nothing of it is left."""

    job: str
    failure: Failure


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The threads that have work, each with a number that is another one once it has gone on."""

    job: str
    at_work: dict[str, int]


Reply = Predicted | Progress | Remark | Built | Loaded | Identified | Exported | Failed | Pong

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
