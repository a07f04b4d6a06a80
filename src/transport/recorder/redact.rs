//! [`Secrets`]: removes the sandbox's token from everything that is written to a recording.

use percent_encoding::utf8_percent_encode;
use serde_json::Value;

use super::{super::endpoint::ESCAPED, line::RECORDED_TOKEN};
use crate::protocol::{
    SandboxToken,
    names::{EVENT_SANDBOX_ID, KEY_EVENT, KEY_SANDBOX_TOKEN},
};

/// Minimum length of a token to redact. Replacing a shorter one would garble the recording.
const SHORTEST: usize = 8;

/// Maximum number of known forms of tokens. A sandbox has one token, in two forms.
const MOST: usize = 16;

/// Replaces a frame that contains the key of a token and is not valid JSON.
const NOT_RECORDED: &str = "(not recorded: may contain a token)";

/// The known tokens, plain and percent-encoded.
#[derive(Default)]
pub(super) struct Secrets {
    known: Vec<String>,
    /// Whether a known token contains characters that JSON can escape without `\u`.
    odd: bool,
}

impl Secrets {
    pub(super) fn learn(&mut self, token: &SandboxToken) {
        let plain = token.expose_secret();
        let in_url = utf8_percent_encode(plain, ESCAPED).to_string();
        for form in [plain.to_owned(), in_url] {
            if form.len() < SHORTEST || self.known.contains(&form) || form == RECORDED_TOKEN {
                continue;
            }
            if self.known.len() == MOST {
                self.known.remove(0);
            }
            self.odd |= !form.bytes().all(|byte| byte.is_ascii_alphanumeric());
            self.known.push(form);
        }
    }

    /// Replaces the known tokens in a text.
    pub(super) fn clean(&self, mut text: String) -> String {
        for token in &self.known {
            if text.contains(token) {
                text = text.replace(token, RECORDED_TOKEN);
            }
        }
        text
    }

    /// Replaces all tokens in a frame, even if JSON escapes hide them. Learns the token of a
    /// `sandbox_id` event.
    pub(super) fn clean_frame(&mut self, frame: String) -> String {
        let names_one = frame.contains(KEY_SANDBOX_TOKEN);
        let may_hide_one = frame.contains("\\u") || (self.odd && frame.contains('\\'));
        if !names_one && !may_hide_one {
            return self.clean(frame);
        }
        let Ok(mut value) = serde_json::from_str::<Value>(&frame) else {
            return match names_one {
                true => NOT_RECORDED.to_owned(),
                false => self.clean(frame),
            };
        };
        if value[KEY_EVENT] == EVENT_SANDBOX_ID
            && let Some(token) = value[KEY_SANDBOX_TOKEN].as_str()
        {
            self.learn(&SandboxToken::new(token));
        }
        match self.clean_value(&mut value) {
            true => value.to_string(),
            false => self.clean(frame),
        }
    }

    /// Replaces all tokens in a JSON value. Returns whether it changed the value.
    fn clean_value(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => {
                let is_found = self.known.iter().any(|token| text.contains(token));
                if is_found {
                    *text = self.clean(std::mem::take(text));
                }
                is_found
            }
            Value::Array(list) => {
                let found = list.iter_mut().map(|value| self.clean_value(value));
                // Use `fold`, because `any` would stop at the first match.
                found.fold(false, |any, found| any | found)
            }
            Value::Object(map) => {
                let mut any = false;
                for (key, value) in map.iter_mut() {
                    if key == KEY_SANDBOX_TOKEN && value != RECORDED_TOKEN {
                        *value = RECORDED_TOKEN.into();
                        any = true;
                    }
                    any |= self.clean_value(value);
                }
                let keys: Vec<String> = map.keys().cloned().collect();
                for key in keys {
                    let clean = self.clean(key.clone());
                    if clean != key
                        && let Some(value) = map.remove(&key)
                    {
                        map.insert(clean, value);
                        any = true;
                    }
                }
                any
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "f2cd8996c7e7a43e/b7";

    fn secrets() -> Secrets {
        let mut secrets = Secrets::default();
        let frame = format!(
            r#"{{"event":"sandbox_id","sandbox_id":"sandbox-1","sandbox_token":"{TOKEN}"}}"#
        );
        let told = secrets.clean_frame(frame);
        assert_eq!(
            told,
            r#"{"event":"sandbox_id","sandbox_id":"sandbox-1","sandbox_token":"recorded-token"}"#
        );
        secrets
    }

    #[test]
    fn a_token_is_redacted_in_every_encoding() {
        let mut secrets = secrets();
        for frame in [
            format!(r#"{{"event":"error","message":"{TOKEN} is wrong"}}"#),
            r#"{"event":"error","message":"f2cd8996c7e7a43e\/b7"}"#.to_owned(),
            r#"{"event":"error","message":"\u0066\u0032cd8996c7e7a43e/b7"}"#.to_owned(),
            r#"{"a":[{"b":"f2cd8996c7e7a43e%2Fb7"}]}"#.to_owned(),
            r#"{"f2cd8996c7e7a43e\/b7":1}"#.to_owned(),
        ] {
            let clean = secrets.clean_frame(frame.clone());
            assert!(clean.contains(RECORDED_TOKEN), "{frame}: {clean}");
            assert!(!clean.contains("a43e"), "{frame}: {clean}");
        }
    }

    #[test]
    fn a_frame_without_a_token_is_unchanged() {
        let mut secrets = secrets();
        for frame in [
            r#"{ "event": "stdout", "data": "a\n\u00e9\\" }"#,
            "this is not json",
            r#"{"z":1,"a":2,"z":3}"#,
        ] {
            assert_eq!(secrets.clean_frame(frame.to_owned()), frame);
        }
    }

    #[test]
    fn a_short_token_is_redacted_without_garbling_other_text() {
        let mut secrets = Secrets::default();
        let told = secrets.clean_frame(r#"{"event":"sandbox_id","sandbox_token":"e"}"#.to_owned());
        assert_eq!(
            told,
            r#"{"event":"sandbox_id","sandbox_token":"recorded-token"}"#
        );
        assert_eq!(secrets.clean_frame("{\"event\":1}".into()), "{\"event\":1}");
    }

    #[test]
    fn invalid_json_with_the_key_of_a_token_is_not_recorded() {
        let frame = r#"{"sandbox_token":"f2cd8996c7e7a43e/b7""#;
        assert_eq!(Secrets::default().clean_frame(frame.into()), NOT_RECORDED);
    }
}
