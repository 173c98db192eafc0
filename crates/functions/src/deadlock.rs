//! Calls that wait for one another in a circle.

use std::collections::{HashMap, HashSet};

use crate::ids::CallId;

/// What one pool does, as far as waiting goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct PoolView {
    /// The service's name.
    pub(crate) service: String,
    /// Whether it has all the containers that it may have, and none of them can take an input before one of `running` ends.
    pub(crate) is_full: bool,
    /// The inputs that its containers run, each with the calls that it has made and waits for.
    pub(crate) running: Vec<(CallId, Vec<CallId>)>,
    /// The inputs that wait for a container.
    pub(crate) waiting: Vec<CallId>,
}

/// Whether `call`, which waits for a container, will never get one: the services on the way from it to the one that is
/// waited for, which is the first and the last of them.
///
/// Everything that waits is taken to be stuck at first; then whatever can go on is taken out, again and again: a call that
/// waits for a container of which one may become free, an input of whose calls none is stuck. What is left is a circle.
pub(crate) fn find(pools: &[PoolView], call: CallId) -> Option<Vec<String>> {
    let mut stuck: HashSet<CallId> = pools.iter().flat_map(|pool| pool.waiting.iter().copied()).collect();
    stuck.extend(pools.iter().flat_map(|pool| pool.running.iter().map(|(input, _)| *input)));
    loop {
        let before = stuck.len();
        for pool in pools {
            for (input, awaited) in &pool.running {
                if !awaited.iter().any(|call| stuck.contains(call)) {
                    stuck.remove(input);
                }
            }
            if !(pool.is_full && pool.running.iter().all(|(input, _)| stuck.contains(input))) {
                pool.waiting.iter().for_each(|call| {
                    stuck.remove(call);
                });
            }
        }
        if stuck.len() == before {
            break;
        }
    }
    stuck.contains(&call).then(|| path(pools, &stuck, call))
}

/// The services from the one that `call` waits for, over what its containers wait for, to one that was met before.
fn path(pools: &[PoolView], stuck: &HashSet<CallId>, call: CallId) -> Vec<String> {
    let running: HashMap<CallId, (&PoolView, &[CallId])> = pools
        .iter()
        .flat_map(|pool| pool.running.iter().map(move |(input, awaited)| (*input, (pool, &awaited[..]))))
        .collect();
    let mut names: Vec<String> = Vec::new();
    let mut waited_for: HashSet<&str> = HashSet::new();
    let mut next = call;
    loop {
        let (pool, awaited) = if let Some((pool, awaited)) = running.get(&next) {
            names.push(pool.service.clone());
            (*pool, *awaited)
        } else {
            let Some(pool) = pools.iter().find(|pool| pool.waiting.contains(&next)) else { break };
            names.push(pool.service.clone());
            if !waited_for.insert(&pool.service) {
                break;
            }
            let Some((_, awaited)) = pool.running.first() else { break };
            (pool, &awaited[..])
        };
        let Some(stuck_call) = awaited.iter().find(|call| stuck.contains(call)) else { break };
        debug_assert!(pool.is_full || !pool.running.is_empty());
        next = *stuck_call;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> CallId {
        CallId::from_number(number)
    }

    fn pool(service: &str, is_full: bool, running: &[(u64, &[u64])], waiting: &[u64]) -> PoolView {
        PoolView {
            service: service.to_owned(),
            is_full,
            running: running
                .iter()
                .map(|(input, awaited)| (id(*input), awaited.iter().copied().map(id).collect()))
                .collect(),
            waiting: waiting.iter().copied().map(id).collect(),
        }
    }

    fn found(pools: &[PoolView], call: u64) -> Option<String> {
        find(pools, id(call)).map(|names| names.join(" "))
    }

    #[test]
    fn a_function_that_calls_itself_in_its_only_container_waits_for_itself() {
        assert_eq!(found(&[pool("f", true, &[(1, &[2])], &[2])], 2).as_deref(), Some("f f"));
    }

    #[test]
    fn a_circle_over_others_is_found_and_named() {
        let pools = [pool("f", true, &[(1, &[2])], &[3]), pool("g", true, &[(2, &[3])], &[])];
        assert_eq!(found(&pools, 3).as_deref(), Some("f g f"));
        let pools = [
            pool("f", true, &[(1, &[2])], &[4]),
            pool("g", false, &[(2, &[3])], &[]),
            pool("h", true, &[(3, &[4])], &[]),
        ];
        assert_eq!(found(&pools, 4).as_deref(), Some("f g h f"));
    }

    #[test]
    fn two_services_that_wait_for_each_others_containers_are_found() {
        let pools = [pool("f", true, &[(1, &[3])], &[4]), pool("g", true, &[(2, &[4])], &[3])];
        assert_eq!(found(&pools, 3).as_deref(), Some("g f g"));
        assert_eq!(found(&pools, 4).as_deref(), Some("f g f"));
    }

    #[test]
    fn nothing_is_stuck_while_one_container_may_become_free() {
        // One of two containers computes.
        assert_eq!(found(&[pool("f", true, &[(1, &[3]), (2, &[])], &[3])], 3), None);
        // A further container may start.
        assert_eq!(found(&[pool("f", false, &[(1, &[2])], &[2])], 2), None);
        // What the container waits for is running elsewhere and waits for nothing.
        let pools = [pool("f", true, &[(1, &[2])], &[3]), pool("g", true, &[(2, &[])], &[])];
        assert_eq!(found(&pools, 3), None);
        // An ordinary queue.
        assert_eq!(found(&[pool("f", true, &[(1, &[])], &[2, 3])], 3), None);
    }

    #[test]
    fn one_call_of_many_that_is_stuck_is_enough() {
        let pools = [pool("f", true, &[(1, &[2, 3])], &[3]), pool("g", true, &[(2, &[])], &[])];
        assert_eq!(found(&pools, 3).as_deref(), Some("f f"));
    }
}
