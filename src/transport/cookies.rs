//! [`Cookies`]: session affinity. What the server set is sent back on every later dial.

use awc::{
    cookie::Cookie,
    http::header::{HeaderMap, SET_COOKIE},
};

/// Most cookies kept, and most bytes of one: a server cannot make every dial larger without end.
const MAX_COOKIES: usize = 32;
const MAX_COOKIE_BYTES: usize = 4096;

/// The cookies that the server last set.
#[derive(Clone, Default)]
pub(crate) struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// Keeps the cookies of an upgrade response. A newer one replaces the older of the same name.
    pub(crate) fn update(&mut self, headers: &HeaderMap) {
        for header in headers.get_all(SET_COOKIE) {
            let Some(cookie) = header
                .to_str()
                .ok()
                .and_then(|text| Cookie::parse(text).ok())
            else {
                continue;
            };
            self.0.retain(|(name, _)| name != cookie.name());
            let expired = cookie.max_age().is_some_and(|age| !age.is_positive());
            let small = cookie.name().len() + cookie.value().len() <= MAX_COOKIE_BYTES;
            if !expired && small && self.0.len() < MAX_COOKIES {
                self.0
                    .push((cookie.name().to_owned(), cookie.value().to_owned()));
            }
        }
    }

    /// The value of the `Cookie` header, attributes left out.
    pub(crate) fn header(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let pairs: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Some(pairs.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use awc::http::header::HeaderValue;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(SET_COOKIE, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn cookies_are_kept_replaced_and_sent_verbatim() {
        let mut cookies = Cookies::default();
        assert_eq!(cookies.header(), None);
        cookies.update(&headers(&[
            "GAESA=Cp%3D/x==; Path=/; Max-Age=3600; HttpOnly",
            "b=2",
            "nonsense",
        ]));
        assert_eq!(cookies.header().as_deref(), Some("GAESA=Cp%3D/x==; b=2"));
        cookies.update(&headers(&["GAESA=new", "b=; Max-Age=0"]));
        assert_eq!(cookies.header().as_deref(), Some("GAESA=new"));
    }
}
