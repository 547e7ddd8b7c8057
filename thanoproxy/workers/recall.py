"""What is known of a request's images before any of them is read, and what is to be known of them from then on.

Of a PREDICT and an EVALUATE the probabilities of all classes are kept, as they left the device: whatever may be asked of a prediction
is a function of those.  Of a CONVERT the features are kept, under the name of the backbone, so that they are those of all models on it.
Features would do for both, but are a hundred times as large where there are few classes, and a last layer gives other bits in another
batch; so nobody keeps them who does not ask for them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from thanoproxy.engine.inference import Vectors
from thanoproxy.images import Sources
from thanoproxy.workers import jobs
from thanoproxy.workers.cache import PredictionCache, name_of, subject_of
from thanoproxy.workers.predicting import Chunk, Prediction

__all__ = ["keep", "recall"]


def recall(prediction: Prediction, sources: Sources, cache: PredictionCache) -> None:
    """Tell `prediction` what is known.  Looks at files, and reads none."""
    now, wanted = time.time_ns(), prediction.request.vectors
    stamps = sources.stamps(prediction.images)
    subjects = [b"" if stamp is None else subject_of(image) for image, stamp in zip(prediction.images, stamps, strict=True)]
    there = [(image, stamp) for image, stamp in enumerate(stamps) if stamp is not None]
    columns = []
    for vector in wanted:
        maker = _maker(prediction, vector)
        columns.append(cache.find([name_of(maker, subjects[image], stamp.mark) for image, stamp in there]))
    for (image, stamp), *values in zip(there, *columns, strict=True):
        if None not in values:
            prediction.know(image, dict(zip(wanted, values, strict=True)))
        elif stamp.is_settled(now):
            prediction.keeping[image] = (subjects[image], stamp.mark)


def keep(chunk: Chunk, found: Sequence[Vectors], cache: PredictionCache) -> None:
    """Remember what was computed, in the order of the chunk's `pixels`, of images that are still what they were before they were read."""
    prediction = chunk.prediction
    for image, vectors in zip(chunk.pixels, found, strict=True):
        subject, mark = prediction.keeping.get(image, (b"", None))
        if mark is not None and chunk.marks.get(image) == mark:
            for vector in prediction.request.vectors:
                cache.keep(name_of(_maker(prediction, vector), subject, mark), vectors[vector])


def _maker(prediction: Prediction, vector: jobs.Vector) -> bytes:
    return bytes.fromhex(prediction.model.backbone if vector == "features" else prediction.request.artifact)
