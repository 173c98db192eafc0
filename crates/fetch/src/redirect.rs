//! Where servers may lead a request.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use url::{Host, Url};

use crate::FetchError;
use crate::exchange::{Failure, Header};

/// Most redirections of one request.
const MOST_REDIRECTIONS: usize = 10;
/// Where Amazon's machines get their credentials by IPv6, which is no link-local address.
const AMAZON_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether an address means another service to each machine, as those that hand out its credentials have.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address == AMAZON_METADATA,
    }
}

/// Hosts, with their ports, that servers have led to: their names must not stand for link-local addresses.
#[derive(Debug, Default)]
pub(crate) struct Redirected(Mutex<HashSet<String>>);

impl Redirected {
    fn add(&self, url: &Url) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(url.authority().to_owned());
    }

    pub(crate) fn has(&self, authority: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(authority)
    }
}

/// The name of a host that a server led to, and that stands for a link-local address.
#[derive(Debug, thiserror::Error)]
#[error("its address is one of this machine's own network")]
pub(crate) struct LeadsToLinkLocal;

/// A request on its way from server to server.
pub(crate) struct Walk {
    begin: String,
    url: String,
    headers: Vec<Header>,
    body: Option<Vec<u8>>,
    redirected: Arc<Redirected>,
}

impl Walk {
    pub(crate) fn new(url: &str, headers: Vec<Header>, body: Option<Vec<u8>>, redirected: Arc<Redirected>) -> Self {
        Self { begin: url.to_owned(), url: url.to_owned(), headers, body, redirected }
    }

    /// Goes on until a server answers with something else than another address.
    pub(crate) fn run(&mut self, agent: &ureq::Agent) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        for _ in 0..=MOST_REDIRECTIONS {
            let response = self.step(agent).map_err(|error| self.failed(error))?;
            let location = response.headers().get("location").filter(|_| is_redirection(response.status().as_u16()));
            let Some(location) = location else { return Ok(response) };
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            if self.body.is_some() {
                return Err(Failure::Final(self.refused(&location, "where what it was sent is not for")));
            }
            self.follow(&location).map_err(Failure::Final)?;
        }
        Err(Failure::Final(self.refused(&self.url, "and so on without an end")))
    }

    fn step(&self, agent: &ureq::Agent) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        fn with<Any>(request: ureq::RequestBuilder<Any>, headers: &[Header]) -> ureq::RequestBuilder<Any> {
            headers.iter().fold(request, |request, (name, value)| request.header(*name, value))
        }
        match &self.body {
            None => with(agent.get(&self.url), &self.headers).call(),
            Some(body) => with(agent.post(&self.url), &self.headers).send(&body[..]),
        }
    }

    fn failed(&self, error: ureq::Error) -> Failure {
        match error {
            ureq::Error::Other(error) if error.is::<LeadsToLinkLocal>() => {
                Failure::Final(self.refused(&self.url, "which is an address of this machine's own network"))
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                let (url, reason) = (self.begin.clone(), error.to_string());
                Failure::Final(FetchError::Network { url, reason, attempts: 1 })
            }
            error => Failure::of(&self.url, &error),
        }
    }

    /// Goes to where a server leads, if that is allowed.
    fn follow(&mut self, location: &str) -> Result<(), FetchError> {
        let unreadable = |error: url::ParseError| self.refused(location, &format!("which is no address: {error}"));
        let here = Url::parse(&self.url).map_err(unreadable)?;
        let mut next = here.join(location).map_err(unreadable)?;
        if !matches!(next.scheme(), "http" | "https") {
            return Err(self.refused(location, "which is no address of the web"));
        }
        if here.origin() == next.origin() {
            if next.username().is_empty() && next.password().is_none() {
                // The scheme is the same, so both can have them.
                let _ = next.set_username(here.username());
                let _ = next.set_password(here.password());
            }
        } else {
            let address = match next.host() {
                Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
                Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
                _ => None,
            };
            if address.is_some_and(is_link_local) {
                return Err(self.refused(location, "which is an address of this machine's own network"));
            }
            self.redirected.add(&next);
            self.headers.retain(|(name, _)| !is_secret(name));
        }
        self.url = next.into();
        Ok(())
    }

    fn refused(&self, to: &str, reason: &str) -> FetchError {
        // What is behind the path, or before the host, may let others in.
        let shown = Url::parse(to).map_or_else(
            |_| to.split(['?', '#']).next().unwrap_or_default().to_owned(),
            |mut url| {
                url.set_query(None);
                url.set_fragment(None);
                let _ = url.set_username("").and_then(|()| url.set_password(None));
                url.to_string()
            },
        );
        FetchError::Redirected { url: self.begin.clone(), to: shown, reason: reason.to_owned() }
    }
}

fn is_redirection(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Whether a header is for the server alone that it is meant for.
fn is_secret(name: &str) -> bool {
    ["authorization", "cookie", "proxy-authorization"].iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(url: &str) -> Walk {
        let headers = vec![("authorization", "Bearer x".to_owned()), ("accept", "a/b".to_owned())];
        Walk::new(url, headers, None, Arc::default())
    }

    #[test]
    fn a_login_stays_with_its_server() {
        let cases = [
            ("https://r.example/v2/a", "/v2/b", "https://r.example/v2/b", true),
            ("https://r.example/v2/a", "https://r.example:443/b", "https://r.example/b", true),
            ("https://u:p@r.example/a", "https://r.example/b", "https://u:p@r.example/b", true),
            ("https://u:p@r.example/a", "https://other.example/b", "https://other.example/b", false),
            ("https://r.example/a", "http://r.example/a", "http://r.example/a", false),
            ("https://r.example/a", "https://r.example:444/a", "https://r.example:444/a", false),
            ("https://r.example/a", "//cdn.example/a", "https://cdn.example/a", false),
        ];
        for (url, location, expected, keeps) in cases {
            let mut walk = walk(url);
            walk.follow(location).unwrap();
            assert_eq!((walk.url.as_str(), walk.headers.len()), (expected, if keeps { 2 } else { 1 }), "{location}");
        }
    }

    #[test]
    fn requests_are_not_led_astray() {
        let cases = [
            "file:///etc/passwd",
            "ftp://host.example/x",
            "data:text/plain,x",
            "http://169.254.169.254/latest/meta-data/?token=secret",
            "http://2852039166/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[fd00:ec2::254]/",
            "http://",
        ];
        for location in cases {
            let mut walk = walk("https://r.example/a");
            let error = walk.follow(location).unwrap_err().to_string();
            assert!(error.starts_with("`https://r.example/a` leads to `"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        // Who begins there goes on there.
        walk("http://169.254.1.1/a").follow("/b").unwrap();
    }
}
