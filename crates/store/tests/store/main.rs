//! The store as its users see it: an engine side and a worker side joined by a socket. The worker runs in a thread, on a
//! temporary directory, as root of nothing but that.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests may say which file in their own assertions")]

mod caches;
mod collection;
mod commit;
mod concurrency;
mod crash;
mod failures;
mod files;
mod formats;
mod health;
mod index;
mod jobs;
mod overlay;
mod placement;
mod support;
