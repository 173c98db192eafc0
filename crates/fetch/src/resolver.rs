//! Name resolution that asks once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::redirect::{LeadsToLinkLocal, Redirected, is_link_local};

/// How long an answer is used again.
const LONGEST_USE: Duration = Duration::from_secs(30);

/// Remembers addresses for a while: the library asks before every request, even when it has an open connection, and one
/// lost answer among hundreds costs the resolver's timeout of seconds.
#[derive(Debug, Default)]
pub(crate) struct RememberingResolver {
    resolver: DefaultResolver,
    known: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
    /// Hosts of which no answer is taken that names a link-local address.
    redirected: Arc<Redirected>,
}

impl RememberingResolver {
    pub(crate) fn new(redirected: Arc<Redirected>) -> Self {
        Self { redirected, ..Self::default() }
    }

    fn checked(&self, authority: &str, answer: ResolvedSocketAddrs) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if self.redirected.has(authority) && answer.iter().any(|address| is_link_local(address.ip())) {
            return Err(ureq::Error::Other(Box::new(LeadsToLinkLocal)));
        }
        Ok(answer)
    }
}

impl Resolver for RememberingResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let authority = uri.authority().map_or("", |host| host.as_str());
        let host = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        // Kept locked while asking: threads that want the same name at the same time ask once.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, addresses)) = known.get(&host)
            && since.elapsed() < LONGEST_USE
        {
            let mut answer = self.empty();
            for address in addresses {
                answer.push(*address);
            }
            return self.checked(authority, answer);
        }
        let answer = self.resolver.resolve(uri, config, timeout)?;
        known.insert(host, (Instant::now(), answer.iter().copied().collect()));
        self.checked(authority, answer)
    }
}
