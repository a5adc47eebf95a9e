"""What counts as a secret, and that it is masked wherever it stands."""

from __future__ import annotations

import json
import time
from base64 import b64encode

import pytest

from sida.errors import UserError
from sida.masking import hide, is_secret_name, masked, secret_in, without_secrets
from sida.printing import LINE, one_line, plain, printable

WORD = "hushhush"


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{WORD}@host/x",
        f"https://{WORD}@host/x",  # a token as the user's name
        f"https://me:p/{WORD}@host/x",  # a slash that should have been encoded
        f"https://me:p@{WORD}@host/x",
        f"https:/me:{WORD}@host/x",
        f"https:\\\\me:{WORD}@host/x",
        f"https:\\/\\/me:{WORD}@host/x",
        f"https///me:{WORD}@host/x",
        f"https:/{WORD}@host/x",
        f"https:/me:p/{WORD}@host/x",
        f"https:me:{WORD}@host/x",
        f"s3//me:{WORD}@bucket",
        f"s3/me:{WORD}@bucket",
        f"s3|me:{WORD}@bucket",
        f"http=//{WORD}@host",
        f"//me:{WORD}@host",
        f"me:{WORD}@host/x",
        f"'me:{WORD}@10.0.0.1'",
        f"me:p@{WORD}@host",
        f"me@example.org:{WORD}@host",
        f"me%3A{WORD}%40host",
        f"https://host/x?next=https%3A%2F%2Fme%3A{WORD}%40host%2Fx",
        f"https%253A%252F%252Fme%253A{WORD}%2540host",
        f"https://host/?Signature%3D{WORD}",
        f"https://host/?x=1%26token={WORD}",
        f"https://host/?x=1%3Btoken%3D{WORD}",
        f"https://host/?%2574oken={WORD}",
        f"https://host/?auth[token]={WORD}",
        f"https://host/x;token={WORD}",
        f"AccountName=a;AccountKey={WORD}==",
        f"authorization: Basic {WORD}",
        f"sqlite:/me:{WORD}@host",
        f"https:|//{WORD}@host",
        f"me:{WORD * 30}@host",
        f"me:{WORD}@10",
        f"https://host/x?$token={WORD}",
        f"https://host/x?a=1?token={WORD}",
        f"https://host/x?token='{WORD}'",
        f"S3://me:{WORD}@bucket/x",
        f"sqlite+psycopg://me:{WORD}@host:5432/mlflow",
        f"https://host/x?token={WORD}",
        f"https://host/x?a=1&access_token={WORD}&b=2",
        f"https://host/x?%74oken={WORD}",
        f"https://host/x?apiKey={WORD}",
        f"https://host/x?key={WORD}",
        f"https://host/x?se=2026&sp=r&sig={WORD}",
        f"https://host/x?X-Amz-Expires=60&X-Amz-Signature={WORD}",
        f"https://host/x?X-Goog-Signature={WORD}",
        f"https://host/x#access_token={WORD}",
        f"https://hooks.slack.com/services/T0/B0/{WORD}",
        f"https://discord.com/api/webhooks/1/{WORD}",
        f"Bearer {WORD}{WORD}",
        f"xoxb-{WORD}-{WORD}",
        f"hf_{WORD}{WORD}{WORD}",
        f"github_pat_{WORD}{WORD}{WORD}",
        f"eyJhbGciOiJI.eyJ{WORD}.{WORD}",
        f"-----BEGIN PRIVATE KEY-----\n{WORD}\n-----END PRIVATE KEY-----",
        rf"https://host/x?a=1\u0026token={WORD}",  # as JSON has it
        rf"https://host/x?a=1\u0026b=2\u0026sig\u003d{WORD}\u0026c=3",
        rf"https://host/x\\u003ftoken\\u003d{WORD}",  # in JSON that is itself a text of JSON
        rf"https://host/x\x3ftoken\x3d{WORD}",
        f"https://my name:{WORD}@host/x",
        f"https://me:my {WORD}@host/x",
        f"https://me :{WORD}@host/x",
        f"s3://my key:{WORD} w@bucket/x",
        f"https://us er:pa ss {WORD}@[::1]:80/x",
        f"https://host/x&sig={WORD}",
        f"https://host/x?a=b&amp;sig={WORD}",
        *(
            f"https://host/x{mark}access_token={WORD}"
            for mark in (*",/!*:@ \t", "%2C", "? ", "\uff1b", "\uff06", "\ufe56")
        ),
        *(f"https://host/x{mark}sig={WORD}" for mark in (*",/!*:@", "%2C")),
        f"https://host/x?token ={WORD}",
        f"https://host/x?to\u200bken={WORD}",
        f"https://host/x?\uff54\uff4f\uff4b\uff45\uff4e={WORD}",
        f"https://host/x?token\ufe66{WORD}",
        f"token={WORD}",
        f"--password={WORD}",
        f"host=h password='{WORD}' port=1",
        f"AWS_SECRET_ACCESS_KEY={WORD}",
        f"X-Amz-Signature={WORD}",
        f"x-amz-security-token: {WORD}",
        f'{{"token": "{WORD}"}}',
        f'{{"a":1,"access_token":"{WORD}","b":2}}',
        f"{{'clientSecret': '{WORD}'}}",
        f'{{"password" : "my {WORD} <1>, (2)"}}',
        f'{{"password": "a\\"b\\\\{WORD}"}}',
        f'{{"x-api-key": "{WORD}"}}',
        f'{{"AWS_SECRET_ACCESS_KEY": "{WORD}',  # cut off
        rf'{{"message": "{{\"refreshToken\": \"{WORD}\\\"{WORD}\"}}"}}',
        rf'"{{\\\"token\\\":\\\"{WORD}\\\"}}"',
        f"{{'password': b'{WORD}'}}",
        f'{{"auths": {{"registry": {{"auth": "{WORD}=="}}}}}}',
        f"Cookie: authservice_session={WORD}; other={WORD}2",
        f"{{'Cookie': 'authservice_session={WORD}; other={WORD}2'}}",
        f"AWS_SECRET_ACCESS_KEY: {WORD}/1+{WORD}",
        f"env:\n  KFP_TOKEN: '{WORD}1'",
        f"password: {WORD}1",
        f"sida --token {WORD}",
        f"sida --api-key  '{WORD} {WORD}' --x",
        f'login -password "a {WORD}"',
        f"--client-secret\n{WORD}",
        rf"--token {WORD}\<{WORD}",
        f"['login', '--token', '{WORD}']",
        f'["--password","{WORD} 1"]',
        rf'"args": "[\"--auth-token\", \"{WORD}\"]"',
    ],
)
def test_a_secret_is_recognized_and_masked_and_what_is_left_is_none(text: str) -> None:
    assert secret_in(text) and WORD not in secret_in(text)
    hidden = masked(f"cannot reach {text} now", {})
    assert WORD not in hidden and hidden.startswith("cannot reach ")
    assert not secret_in(masked(text, {}).replace("-----BEGIN PRIVATE KEY-----", ""))


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/path@2x/a.pkl?download=true&rev=main",
        "https://[::1]:8080/x@y",
        "s3://bucket/prefix",
        "file:///home/me@work/a:b@c",
        "digits#sha256=" + "a" * 64,
        "sqlite:////tmp/mlflow.db",
        "SiD (alpha 1.0) on AFHQv2 64x64, from EDM's teacher",
        "write to me@example.org about tokens",
        "AWS_SECRET_ACCESS_KEY: missing everywhere",
        "HF_TOKEN_FILE: /run/secrets/token-1",
        "password: ${PASSWORD_1}",
        "HF_TOKEN: ***",
        '{"auth": "none"}',
        "write to mailto:me@example.org, contact:you@example.org",
        "git@github.com:owner/repo, ssh://git@github.com/owner/repo",
        "12:30@noon, 2026-11-29T12:30:05@host",
        "registry:5000/team/name:1.0@sha256:" + "a" * 64,
        "name:tag@sha256:" + "a" * 64 + ",other:tag@sha256:" + "b" * 64,
        "docker://name:tag@sha256:0123, oci://name@sha256:0123",
        "PATH=/usr/bin:/opt/x:/home/me@work/bin:/lib:/opt:/home/me@x",
        "./a:b@c, /home/me@work/a:b@c",
        '{"name":"x","mail":"me@host"}',
        "fid:1.92@50k, top1:76@224",
        "https://host:8080 or me@example.org, https://host: write to me@example.org",
        "https://host:port or me@example.org",
        "the token = a patch, a secret: none, tokens=12345678, max_tokens=123456ab, token=1234567890",
        "s3://bucket/key=images/session=20261129a/code=abcdefgh/x.zip",
        "password=$MLFLOW_TRACKING_PASSWORD, token=${TOKEN_OF_MINE}, secret=<the secret>, token=***",
        "image-pull-secret: my-registry-login, --token TEXT, a password is asked for",
        '{"token": "none", "token_type": "bearertoken", "token_uri": "https://host/token", "secretName": "sida-storage"}',
        '{"max_tokens": "12345678abc", "cookies_variable": "KFP_COOKIES", "token_file": "/run/secrets/kfp-token"}',
        '{"imagePullSecret": "my-registry-login", "token": "$KFP_TOKEN_OF_MINE", "password": "<the password>", "secret": 1}',
        "give --token-file /path/of/mine, --password, --token TOKEN_OF_MINE, --token --verbose, --max-tokens 12345678a",
        "--password $PASSWORD_OF_MINE, --secret-id abcdefghijk, --token ***, --token 12345678",
        "cookies and credentials come from the environment; sort(key=something)",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text: str) -> None:
    assert secret_in(text) == ""
    assert masked(text, {}) == text


def test_json_stays_json_when_a_masked_text_ends_in_a_backslash() -> None:
    content = {"token": f"{WORD}\\", "next": "keep", "password": f'{WORD}\\"{WORD}', "last": 1}
    hidden = json.loads(masked(json.dumps(content), {}))
    assert hidden == {"token": "***", "next": "keep", "password": "***", "last": 1}


def test_the_password_in_a_variable_s_address_is_masked_wherever_it_stands_alone() -> None:
    variables = {"MLFLOW_TRACKING_URI": "http://me:pass%20word@host", "AWS_SECRET_ACCESS_KEY": "0123456789"}
    text = "login with 'pass word' or pass%20word, key 0123456789"
    assert masked(text, variables) == "login with '***' or ***, key ***"
    mistyped = {"MLFLOW_TRACKING_URI": "http://me: hushhush@host"}
    assert masked("no server at http://me: hushhush@host", mistyped) == "no server at http://***@host"


@pytest.mark.parametrize("name", ["SIDA_WEBHOOK", "KFP_TOKEN", "kfp_cookies", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"])
def test_some_variables_are_secret_by_their_names(name: str) -> None:
    assert is_secret_name(name)
    assert not is_secret_name("AWS_ACCESS_KEY_ID")


@pytest.mark.parametrize(
    "text",
    [
        "eyJ-",
        "eyJaaaaaaaa.",
        "://a:b",
        "://",
        "?token=",
        "authorization: ",
        "a:/",
        "a:a@,",
        "s3:(",
        "%3a",
        "aa:/%25",
        "?a=%25",
        "-----BEGIN PRIVATE KEY-----",
        '"token":"',
        '"token": "a\\"',
        '"token',
        "tokentoken",
        '\\\\"token\\\\":',
        "--token ",
        "--token '",
        "-token-token",
        "\\",
        '\\"',
        '"token" : ',
        '"token",',
    ],
)
def test_no_text_takes_long(text: str) -> None:
    def seconds(characters: int) -> float:
        long, begun = text * (characters // len(text)), time.process_time()
        masked(long, {})
        secret_in(long)
        one_line(long)
        return time.process_time() - begun

    # 8 times the text takes 8 times as long, on any machine; with the square of its length it would be 64 times.
    assert seconds(400_000) < 24 * seconds(50_000) + 0.5


def test_what_moves_the_cursor_or_turns_a_line_around_is_printed_as_an_escape() -> None:
    assert printable("a\x1b]8;;x\x07b\r\x9b2J\x7f\u202ec\u200b\ud800") == (
        "a\\x1b]8;;x\\x07b\\r\\x9b2J\\x7f\\u202ec\\u200b\\ud800"
    )
    for kept in ("a\tb\nc", 'naïve 東京 "so"', "1\u00a0000\u202f000"):
        assert printable(kept) == kept
    assert plain("\x1b[32mgreen\x1b[0m\x07") == "green"


def test_an_error_is_one_short_line_whose_beginning_and_end_are_kept() -> None:
    line = str(UserError(f"name \x1b[2J{'x' * 3_000_000}\n\u2028 https://me:{WORD}@host/: correct it"))
    assert len(line) <= LINE and line.isprintable()
    assert line.startswith("name \\x1b[2Jxxx") and line.endswith("https://***@host/: correct it")
    assert " ... " in line
    assert len(one_line("x" * LINE)) == LINE and "..." not in one_line("x" * LINE)


def test_a_field_is_masked_by_its_name_too() -> None:
    fields = {
        "token": WORD,
        "nested": [{"clientSecret": f"a {WORD}", "token_file": "/run/token"}],
        "password": 5,
        7: None,
    }
    said = without_secrets(fields)
    assert said == {
        "token": "***",
        "nested": [{"clientSecret": "***", "token_file": "/run/token"}],
        "password": 5,
        7: None,
    }


def test_credentials_that_were_sent_are_masked_by_value() -> None:
    basic = b64encode(f"me:{WORD}-basic".encode()).decode()
    hide(
        {
            "Authorization": f"Bearer {WORD}-bearer",
            "Cookie": f"theme=darkmode; sid={WORD}-cookie",
            "Accept": "text/plain",
        }
    )
    hide({"authorization": f"Basic {basic}"})
    hide({"x-amz-security-token": f"{WORD}-session", "X-Short": "abc", "authorization": ""})
    said = f"no {WORD}-bearer, {WORD}-cookie, {basic}, {WORD}-basic nor {WORD}-session in text/plain"
    assert masked(said, {}) == "no ***, ***, ***, *** nor *** in text/plain"
    assert one_line(said) == masked(said, {})
