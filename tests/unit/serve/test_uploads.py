"""What is kept of uploads, and for how long."""

from __future__ import annotations

import numpy as np
import pytest

from clipvip.serve.config import ServeConfig
from clipvip.serve.decoding import Sampling
from clipvip.serve.problems import Problem
from clipvip.serve.uploads import Uploads

SAMPLING = Sampling(4, 32, None, "squash", False, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_uploads_expire_and_are_bounded():
    """Catches vectors that are kept for ever, and the newest forgotten for the oldest."""
    now = [0.0]
    uploads = Uploads(ServeConfig(upload_keep_s=60, num_uploads=3), SAMPLING, clock=lambda: now[0])
    ids = [uploads.keep("image", np.full(2, i, np.float32)) for i in range(4)]
    assert len(set(ids)) == 4
    with pytest.raises(Problem, match="upload the file again"):
        uploads.find(ids[0])
    assert [uploads.find(upload_id).vector[0] for upload_id in ids[1:]] == [1, 2, 3]
    now[0] = 61.0
    with pytest.raises(Problem) as expired:
        uploads.find(ids[3])
    assert expired.value.status == 404
    uploads.keep("video", np.zeros(2, np.float32))
    assert len(uploads._uploads) == 1
