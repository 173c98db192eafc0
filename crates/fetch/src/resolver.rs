//! Name resolution that asks once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an answer is used again.
const LONGEST_USE: Duration = Duration::from_secs(30);

/// Remembers addresses for a while: the library asks before every request, even when it has an open connection, and one
/// lost answer among hundreds costs the resolver's timeout of seconds.
#[derive(Debug, Default)]
pub(crate) struct RememberingResolver {
    resolver: DefaultResolver,
    known: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
}

impl Resolver for RememberingResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host =
            format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |host| host.as_str()));
        // Kept locked while asking: threads that want the same name at the same time ask once.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, addresses)) = known.get(&host)
            && since.elapsed() < LONGEST_USE
        {
            let mut answer = self.empty();
            for address in addresses {
                answer.push(*address);
            }
            return Ok(answer);
        }
        let answer = self.resolver.resolve(uri, config, timeout)?;
        known.insert(host, (Instant::now(), answer.iter().copied().collect()));
        Ok(answer)
    }
}
