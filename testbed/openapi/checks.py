"""What schemathesis checks of every answer beside what it checks by itself."""

import schemathesis


@schemathesis.check
def only_the_documented_503(ctx, response, case):
    """A fault of the server is never an answer; 503 is one where it says when to come again."""
    status = response.status_code
    if status < 500:
        return
    assert status == 503, f"status {status}: {response.text[:300]}"
    if case.path.startswith("/api/health"):
        return
    assert "retry-after" in response.headers, "a 503 without Retry-After"
    body = response.json()
    assert body.get("code"), f"a 503 without a code: {body}"


@schemathesis.check
def refusals_are_problem_documents(ctx, response, case):
    """Whatever is refused says by a code why."""
    status = response.status_code
    if status < 400 or (status == 503 and case.path.startswith("/api/health")):
        return
    if case.method.upper() == "HEAD":
        return
    kind = response.headers.get("content-type", [""])[0]
    assert kind == "application/problem+json", f"status {status} with content type {kind!r}"
    body = response.json()
    for key in ("code", "title", "status", "detail", "retryable"):
        assert key in body, f"a problem without `{key}`: {body}"
    assert body["status"] == status, f"the problem says {body['status']}, the answer {status}"
