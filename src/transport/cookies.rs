//! [`Cookies`]: session affinity. The client sends the cookies of the server on every later dial.

use std::time::SystemTime;

use awc::{
    cookie::Cookie,
    http::header::{HeaderMap, SET_COOKIE},
};

/// Limits on the number of cookies and on the size of one. Without them, a server could grow the
/// client's request headers without bound.
const MAX_COOKIES: usize = 32;
const MAX_COOKIE_BYTES: usize = 4096;

/// The cookies that the server has set, one per name.
#[derive(Clone, Default)]
pub(crate) struct Cookies(Vec<Kept>);

#[derive(Clone)]
struct Kept {
    name: String,
    value: String,
    /// `None` for a session cookie, which doesn't expire.
    expires: Option<SystemTime>,
}

impl Kept {
    fn is_valid(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|at| at > now)
    }
}

impl Cookies {
    /// Stores the cookies of an upgrade response. A cookie replaces an earlier one of the same
    /// name, and an expired cookie deletes it. Ignores cookies beyond the limits.
    pub(crate) fn update(&mut self, headers: &HeaderMap, now: SystemTime) {
        self.0.retain(|kept| kept.is_valid(now));
        for header in headers.get_all(SET_COOKIE) {
            let Some(cookie) = header
                .to_str()
                .ok()
                .and_then(|text| Cookie::parse(text).ok())
            else {
                continue;
            };
            self.0.retain(|kept| kept.name != cookie.name());
            let expires = expires(&cookie, now);
            let expired = expires.is_some_and(|at| at <= now);
            let small = cookie.name().len() + cookie.value().len() <= MAX_COOKIE_BYTES;
            if !expired && small && self.0.len() < MAX_COOKIES {
                self.0.push(Kept {
                    name: cookie.name().to_owned(),
                    value: cookie.value().to_owned(),
                    expires,
                });
            }
        }
    }

    /// Returns the value of the `Cookie` header. `None` if no cookie is valid.
    pub(crate) fn header(&self, now: SystemTime) -> Option<String> {
        let valid = self.0.iter().filter(|kept| kept.is_valid(now));
        let pairs: Vec<_> = valid
            .map(|Kept { name, value, .. }| format!("{name}={value}"))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

/// Returns the expiry time of a cookie. `Max-Age` takes precedence over `Expires` (RFC 6265,
/// section 4.1.2.2).
fn expires(cookie: &Cookie<'_>, now: SystemTime) -> Option<SystemTime> {
    match cookie.max_age() {
        // A cookie whose expiry time overflows the clock never expires.
        Some(age) => now.checked_add(age.try_into().unwrap_or_default()),
        None => cookie.expires_datetime().map(SystemTime::from),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut cookies = Cookies::default();
        assert_eq!(cookies.header(now), None);
        let set = headers(&[
            "GAESA=Cp%3D/x==; Path=/; Max-Age=3600; HttpOnly",
            "b=2",
            "nonsense",
        ]);
        cookies.update(&set, now);
        assert_eq!(cookies.header(now).as_deref(), Some("GAESA=Cp%3D/x==; b=2"));
        cookies.update(&headers(&["GAESA=new", "b=; Max-Age=0"]), now);
        assert_eq!(cookies.header(now).as_deref(), Some("GAESA=new"));
    }

    #[test]
    fn a_cookie_that_has_expired_is_removed() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for removal in [
            "a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "a=x; Expires=Wed, 21 Oct 2015 07:28:00 GMT; Path=/",
            "a=; Max-Age=0",
            "a=; Max-Age=-1",
            "a=; Max-Age=0; Expires=Fri, 01 Jan 2999 00:00:00 GMT",
        ] {
            let mut cookies = Cookies::default();
            cookies.update(&headers(&["a=1", "b=2"]), now);
            cookies.update(&headers(&[removal]), now);
            assert_eq!(cookies.header(now).as_deref(), Some("b=2"), "{removal}");
        }
        let mut cookies = Cookies::default();
        cookies.update(
            &headers(&[
                "a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
                "b=2; Expires=Fri, 01 Jan 2999 00:00:00 GMT",
            ]),
            now,
        );
        assert_eq!(cookies.header(now).as_deref(), Some("a=1; b=2"));
        let later = now + Duration::from_secs(60);
        assert_eq!(cookies.header(later).as_deref(), Some("b=2"));
    }

    #[test]
    fn an_expired_cookie_makes_room_for_a_new_one() {
        let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut cookies = Cookies::default();
        for index in 0..=MAX_COOKIES {
            let mut set = HeaderMap::new();
            let cookie = format!("c{index}=v; Max-Age=10");
            set.append(SET_COOKIE, cookie.parse().expect("a header"));
            cookies.update(&set, now);
            assert_eq!(cookies.header(now), Some(format!("c{index}=v")));
            now += Duration::from_secs(60);
        }
        for index in 0..2 * MAX_COOKIES {
            let mut set = HeaderMap::new();
            set.append(SET_COOKIE, format!("s{index}=v").parse().expect("a header"));
            cookies.update(&set, now);
        }
        let sent = cookies.header(now).expect("cookies");
        assert_eq!(sent.split("; ").count(), MAX_COOKIES);
    }
}
