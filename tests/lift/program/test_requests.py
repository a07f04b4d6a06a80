"""Checks of exec requests: what is refused, and what the errors name."""

import json
import unittest

from program.requests import BadRequest, Repeating, Request, UnsupportedLanguage, object_from


def request(**keys):
    return Request(dict({"exec": "e", "language": "bash", "code": ":"}, **keys))


def argv(*words, **keys):
    return Request(dict({"exec": "e", "argv": list(words)}, **keys))


class RequestTest(unittest.TestCase):
    def refused(self, message):
        with self.assertRaises(BadRequest) as caught:
            Request(message)
        return caught.exception.message

    def test_the_defaults_are_those_of_the_protocol(self):
        it = request()
        self.assertEqual((it.window, it.binary, it.output_grace), (1 << 20, False, 2.0))
        self.assertEqual((it.args, it.env), ([], {}))
        self.assertEqual((it.cwd, it.timeout_ms, it.terminal), (None, None, None))
        self.assertEqual((it.kind, it.label, it.code), ("program", "bash", b":"))

    def test_languages_have_aliases(self):
        for name, language in (("python3", "python"), ("py", "python"), ("sh", "bash")):
            self.assertEqual(request(language=name).language, language)
        with self.assertRaises(UnsupportedLanguage) as caught:
            request(language="ruby")
        self.assertIn("'ruby'", caught.exception.message)

    def test_null_counts_as_an_absent_key(self):
        it = request(args=None, env=None, cwd=None, window=None, argv=None, terminal=None)
        self.assertEqual((it.args, it.window), ([], 1 << 20))

    def test_a_window_is_limited_on_both_sides(self):
        for asked, used in ((1, 1024), (5000, 5000), (1 << 40, 1 << 20)):
            self.assertEqual(request(window=asked).window, used)

    def test_a_request_has_one_program(self):
        for keys in ({}, {"argv": ["a"], "code": ":"}, {"argv": ["a"], "builtin": {"op": "ports"}}):
            self.assertIn("either", self.refused(dict(keys, exec="e")))
        self.assertIn("name a program", self.refused({"exec": "e", "argv": []}))

    def test_errors_name_the_key(self):
        bad = {
            "args": ["a", 1],
            "env": {"A": 1},
            "cwd": 5,
            "timeout_ms": -1,
            "output_grace_ms": "5",
            "window": 1.5,
            "binary": "yes",
            "terminal": {"columns": 0, "rows": 5},
            "code": 7,
        }
        for key, value in bad.items():
            message = {"exec": "e", "language": "bash", "code": ":", key: value}
            self.assertIn("'%s'" % key, self.refused(message))
        self.assertIn("'rows'", self.refused(dict(message, code=":", terminal={"columns": 5})))
        self.assertIn("'exec'", self.refused(dict(message, code=":", exec="x" * 129)))
        self.assertIn("'exec'", self.refused(dict(message, code=":", exec="")))

    def test_what_the_system_can_not_express_is_refused(self):
        for keys in ({"args": ["a\0"]}, {"env": {"A": "\0"}}, {"cwd": "\0"}):
            self.assertIn("zero byte", self.refused(dict(keys, exec="e", language="sh", code=":")))
        for keys in ({"env": {"A=B": ""}}, {"env": {"": ""}}, {"env": {"A\0": ""}}):
            self.assertIn("variable", self.refused(dict(keys, exec="e", language="sh", code=":")))
        self.refused({"exec": "e", "language": "sh", "code": "\ud800"})
        self.refused({"exec": "e", "argv": ["\udc80"]})

    def test_arguments_and_variables_are_limited_together(self):
        env = {"V%d" % number: "" for number in range(600)}
        argv(*["x"] * 400, env=env)
        words = ["x"] * 401
        self.assertIn("1000", self.refused({"exec": "e", "argv": words, "env": env}))

    def test_a_builtin_ignores_other_options(self):
        it = Request({"exec": "e", "builtin": {"op": "watch"}, "cwd": 5, "window": 2000})
        self.assertEqual((it.kind, it.label, it.window), ("passive", "watch", 2000))
        self.assertEqual(Request({"exec": "e", "builtin": {"op": "read"}}).kind, "builtin")
        self.assertIn("'op'", self.refused({"exec": "e", "builtin": {}}))
        large = {"op": "read", "path": "x" * 65536}
        self.assertIn("65536 bytes", self.refused({"exec": "e", "builtin": large}))

    def test_a_key_that_occurs_twice_is_refused(self):
        for text in (
            '{"exec":"e","argv":["a"],"argv":["b"]}',
            '{"exec":"e","builtin":{"op":"read","op":"write"}}',
            '{"exec":"e","argv":["a"],"env":{"A":"1","A":"2"}}',
        ):
            message = json.loads(text, object_pairs_hook=object_from)
            self.assertIn("twice", self.refused(message))
        self.assertNotIsInstance(object_from([("a", 1)]), Repeating)

    def test_integers_are_not_booleans(self):
        self.assertIn("'window'", self.refused({"exec": "e", "argv": ["a"], "window": True}))


if __name__ == "__main__":
    unittest.main()
