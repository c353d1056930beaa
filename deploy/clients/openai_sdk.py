"""Talks to a running router with the OpenAI Python SDK, and exits non-zero on any surprise.

    python3 -m venv venv && venv/bin/pip install openai
    venv/bin/python deploy/clients/openai_sdk.py http://127.0.0.1:8080/v1
"""

import sys

import openai


def main(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0)
    model = client.models.list().data[0].id
    print(f"openai {openai.__version__}, model {model}")

    system = "You answer questions about the weather. " * 100
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Will it rain?"}]
    pieces, usage = [], None
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=12, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True})
    for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    answer = "".join(pieces)
    print(f"streamed {usage.completion_tokens} tokens: {answer!r}")
    assert usage.completion_tokens == 12 and answer

    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
    raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=4)
    second = raw.parse()
    cached = second.usage.prompt_tokens_details.cached_tokens
    print(f"second turn: {cached} of {second.usage.prompt_tokens} prompt tokens from the cache, "
          f"replica {raw.headers['x-sluice-replica']}, decision {raw.headers['x-sluice-decision']}, "
          f"expected {raw.headers['x-sluice-prefix-hit']}")
    assert second.choices[0].message.content and cached > second.usage.prompt_tokens // 2

    completion = client.completions.create(model=model, prompt="Once upon a time", max_tokens=3)
    assert completion.choices[0].text

    try:
        client.chat.completions.create(model="no-such-model", messages=messages)
    except openai.NotFoundError as error:
        print(f"unknown model: {error.status_code} {error.body['code']}")
        assert error.body["code"] == "model_not_found"
    else:
        sys.exit("an unknown model was answered")
    print("all as expected")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
