//! `modal image prune`: disk space back.

use std::time::Duration;

use lamina_engine::{Collected, Engine, Policy};
use lamina_ground::seconds_since_1970;

use super::ask::{ask, say};
use super::image_table::table;
use super::print;
use crate::arguments::Prune;
use crate::failure::Failure;
use crate::output::text;

/// What goes when nothing is said: what was not used for 30 days.
const UNUSED_FOR: Duration = Duration::from_hours(30 * 24);

/// Removes what the user names, after asking.
pub(crate) fn prune(engine: &Engine, wanted: &Prune) -> Result<u8, Failure> {
    let mut policy = policy(wanted);
    let waiting = || say("Waiting for another `modal` that is storing something ...\n");
    let expected = engine.prune(&Policy { dry_run: true, ..policy.clone() }, &waiting)?;
    if wanted.dry_run {
        print(table(&expected.images, seconds_since_1970()).as_bytes())?;
        let (what, bytes) = (removal("Would remove", &expected), text::bytes(expected.bytes));
        say(&format!("{what}, about {bytes} would come free; packages and caches that are no longer used, too.\n"));
        return Ok(0);
    }
    if !wanted.yes && !expected.images.is_empty() {
        say(&table(&expected.images, seconds_since_1970()));
        policy.among = Some(expected.images.iter().map(|image| image.id.clone()).collect());
        let question = format!("{}, about {}?", removal("Remove", &expected), text::bytes(expected.bytes));
        match ask(&question)? {
            Some(true) => {}
            Some(false) => {
                say("Nothing was removed.\n");
                return Ok(1);
            }
            None => {
                return Err(Failure::new("nothing was removed: there is nobody to ask")
                    .hint("say so with `--yes`, or look first with `--dry-run`"));
            }
        }
    }
    let collected = engine.prune(&policy, &waiting)?;
    for image in &collected.images {
        print(format!("{}\n", image.id).as_bytes())?;
    }
    say(&format!("{}, {} came free.\n", removal("Removed", &collected), text::bytes(collected.bytes)));
    if policy.ids.is_empty() && !collected.used.is_empty() {
        say(&format!(
            "{} in use by a running `modal`.\n",
            count(collected.used.len() as u64, "image stays", "images stay")
        ));
    }
    if let Some(maximum) = wanted.max_size {
        let total = engine.usage()?.total();
        if total > maximum {
            say(&format!(
                "The store still takes {}: what is left is in use, or keeps it together.\n",
                text::bytes(total)
            ));
        }
    }
    match used(&policy, &collected) {
        Some(failure) => Err(failure),
        None => Ok(0),
    }
}

fn policy(wanted: &Prune) -> Policy {
    let says_nothing = wanted.ids.is_empty()
        && wanted.unused_for.is_none()
        && wanted.older_than.is_none()
        && wanted.max_size.is_none();
    let default = if wanted.all { Some(Duration::ZERO) } else { says_nothing.then_some(UNUSED_FOR) };
    Policy {
        ids: wanted.ids.clone(),
        unused_for: wanted.unused_for.or(default),
        older_than: wanted.older_than,
        maximum_bytes: wanted.max_size,
        among: None,
        dry_run: false,
    }
}

/// `Removed 2 images with 5 layers and 3 packages`.
fn removal(verb: &str, collected: &Collected) -> String {
    let images = count(collected.images.len() as u64, "image", "images");
    let layers = count(collected.layers, "layer", "layers");
    match collected.packages {
        0 => format!("{verb} {images} and {layers}"),
        packages => {
            format!("{verb} {images}, {layers} and {}", count(packages, "unpacked package", "unpacked packages"))
        }
    }
}

fn count(count: u64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// The failure that images which were asked for by name are in use.
fn used(policy: &Policy, collected: &Collected) -> Option<Failure> {
    if policy.ids.is_empty() || collected.used.is_empty() {
        return None;
    }
    let ids: Vec<_> = collected.used.iter().map(|image| format!("`{}`", image.id)).collect();
    let message = format!("{} was not removed: a running `modal` uses it", ids.join(", "));
    Some(Failure::new(message).hint("try again when that has ended"))
}
