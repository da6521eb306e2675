"""What a reply says of a job that its provider bills later."""

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.jobs import Job, dumped, job_of, loaded
from proxy.exchange import Usage

OPENAI, GEMINI = "openai", "gemini"
FT, VIDEO = {"id": "ftjob-1", "object": "fine_tuning.job", "model": "gpt-4o-mini"}, {"id": "video_1", "object": "video", "model": "sora-2"}
OPERATION = {"name": "batches/b1", "metadata": {"model": "models/gemini-2.5-flash", "state": "BATCH_STATE_RUNNING"}}
ANSWER = {"response": {"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 2}}}
DONE = {**OPERATION, "done": True, "response": {"inlinedResponses": {"inlinedResponses": [ANSWER, ANSWER, {"error": {"code": 3}}]}}}


def job(dialect, method, path, doc):
    return job_of(dialect, dialect_of(dialect).operation(method, path, ""), doc)


@pytest.mark.parametrize(
    ("dialect", "path", "doc", "said"),
    [
        (OPENAI, "/v1/fine_tuning/jobs/ftjob-1", {**FT, "status": "running", "trained_tokens": None}, ("ftjob-1", False, None, False)),
        (OPENAI, "/v1/fine_tuning/jobs/ftjob-1", {**FT, "status": "succeeded", "trained_tokens": 55},
         ("ftjob-1", True, {"trained_tokens": 55}, False)),
        (OPENAI, "/v1/fine_tuning/jobs/ftjob-1", {**FT, "status": "failed", "trained_tokens": None}, ("ftjob-1", True, None, True)),
        (OPENAI, "/v1/videos/video_1", {**VIDEO, "status": "queued", "seconds": "4"}, ("video_1", False, None, False)),
        (OPENAI, "/v1/videos/video_1", {**VIDEO, "status": "completed", "seconds": "4"}, ("video_1", True, {"seconds": 4}, False)),
        (OPENAI, "/v1/videos/video_1", {**VIDEO, "status": "failed", "seconds": "4"}, ("video_1", True, None, True)),
        (OPENAI, "/v1/batches/b", {"id": "b", "status": "expired", "request_counts": {"completed": 0}}, ("b", True, None, True)),
        (OPENAI, "/v1/batches/b", {"id": "b", "status": "completed", "request_counts": {"completed": 2}}, ("b", True, None, False)),
        (GEMINI, "/v1beta/batches/b1", OPERATION, ("batches/b1", False, None, False)),
    ],
)  # fmt: skip
def test_a_reply_says_whether_the_job_is_over_and_what_it_used(dialect, path, doc, said):
    found = job(dialect, "GET", path, doc)
    units = dict(found.usages[0].units) if found.usages else None
    assert (found.id, found.is_over, units, found.is_free) == said


def test_a_batch_of_gemini_is_the_sum_of_its_answers_at_batch_prices():
    found = job(GEMINI, "GET", "/v1beta/batches/b1", DONE)
    [usage] = found.usages
    assert (usage.model, usage.input, usage.output, usage.tier) == ("gemini-2.5-flash", 20, 4, "batch")


@pytest.mark.parametrize(
    "doc",
    [
        {"id": "resp_1", "status": "completed", "usage": {"input_tokens": 1, "output_tokens": 1}},
        {"id": "resp_1", "status": "odd", "background": True},
        {"id": "r" * 300, "status": "queued", "background": True},
        {"id": "resp\n1", "status": "queued", "background": True},
        {"id": 7, "status": "queued", "background": True},
        {},
    ],
)
def test_a_reply_that_speaks_of_no_job_that_we_know_is_none(doc):
    assert job(OPENAI, "POST", "/v1/responses", doc) is None


def test_what_one_sidecar_saw_of_a_job_another_reads_as_it_was_and_nothing_else():
    usage = Usage(500, cached_input=20, output=200, source="provider", detail={"input_tokens": 500, "nested": {"a": [1]}}, tier="batch")
    for job in (Job("resp_1", True, (usage, usage)), Job("batch_1", True, (), True)):
        assert loaded(dumped(job)) == job
    for data in (b"", b"[]", b"{}", b'{"id":1,"usages":[],"is_free":true}', b'{"id":"a","usages":[{"input":"5"}],"is_free":false}',
                 b'{"id":"a","usages":[{"input":-5}],"is_free":false}', b'{"id":"a","usages":[{"other":5}],"is_free":false}'):  # fmt: skip
        assert loaded(data) is None
