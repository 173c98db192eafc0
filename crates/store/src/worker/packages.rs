//! Checking what describes kept packages. What is damaged is moved out of the way, and its package is unpacked again when
//! somebody needs it.

use super::disk::{self, Result};
use super::repair::set_aside;
use super::{Description, KeptPackage, WorkerContext};
use crate::protocol::{CheckedPackages, DamagedDescription};

/// Looks for descriptions that are damaged, or name objects that are not there.
pub(super) fn check(context: &WorkerContext, packages: &[KeptPackage]) -> Result<CheckedPackages> {
    let mut checked = CheckedPackages { count: packages.len() as u64, damaged: Vec::new() };
    for description in descriptions(packages) {
        if let Some(problem) = problem(context, description)? {
            let path = description.path.strip_prefix(context.content()).unwrap_or(&description.path).to_owned();
            checked.damaged.push(DamagedDescription { path, problem });
        }
    }
    Ok(checked)
}

/// Puts such descriptions aside.
pub(super) fn set_damaged_aside(context: &WorkerContext, packages: &[KeptPackage]) -> Result<()> {
    for damaged in check(context, packages)?.damaged {
        set_aside(context, &context.content().join(damaged.path))?;
    }
    Ok(())
}

/// Those that count. What a dead process left unpublished is believed by nobody, and collection takes it.
fn descriptions(packages: &[KeptPackage]) -> impl Iterator<Item = &Description> {
    packages.iter().flat_map(|package| &package.descriptions).filter(|description| description.is_published)
}

fn problem(context: &WorkerContext, description: &Description) -> Result<Option<String>> {
    let objects = match &description.objects {
        Ok(objects) => objects,
        Err(problem) => return Ok(Some(problem.clone())),
    };
    for object in objects {
        let path = object.path();
        if disk::try_stat(&context.content().join(&path))?.is_none() {
            return Ok(Some(format!("names the object `{}`, which is not there", path.display())));
        }
    }
    Ok(None)
}
