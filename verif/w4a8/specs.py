# SPDX-License-Identifier: Apache-2.0
"""Arrays that the tests build: every axis of the spec, on as few and small models as will do."""

from __future__ import annotations

from cosil.engines.w4a8 import W4A8Spec

SMALL = {
    "os-channel-fp16": W4A8Spec(4, 6, max_k=512, prefetch_chunks=2),
    "os-channel-fixed": W4A8Spec(3, 5, epilogue="fixed", epilogue_lanes=2, max_k=512),
    "os-group-fp16": W4A8Spec(1, 4, scales="group", max_k=512),
    "ws-group-fp16": W4A8Spec(
        4, 5, "ws", scales="group", epilogue_lanes=3, max_k=512, acc_rows=16, prefetch_chunks=2
    ),
    "ws-group-fixed": W4A8Spec(
        1, 3, "ws", scales="group", epilogue="fixed", max_k=512, acc_rows=16
    ),
    "ws-channel-fixed": W4A8Spec(
        2, 6, "ws", weight_encoding="offset", epilogue="fixed", max_k=512, acc_rows=32,
        double_buffer=False,
    ),
}  # fmt: skip
"""Six models for `make test`; with the pairs of axes that they leave out, `LARGE` follows."""

LARGE = {
    "os-group-fixed": W4A8Spec(8, 8, scales="group", epilogue="fixed", max_k=4096),
    "ws-channel-fp16": W4A8Spec(8, 7, "ws", epilogue_lanes=4, max_k=4096, acc_rows=64),
    "os-single-buffer": W4A8Spec(5, 7, weight_encoding="offset", double_buffer=False),
    "ws-tall": W4A8Spec(16, 8, "ws", scales="group", weight_encoding="twos", acc_rows=128),
    "os-single": W4A8Spec(1, 1, epilogue="fixed"),
    "os-wide": W4A8Spec(6, 17, scales="group", epilogue_lanes=5, prefetch_chunks=8),
}
"""More, for `make test-all`."""
