//! Taking in local files.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;

use super::disk::{self, Result};
use super::{WorkerContext, content};
use crate::JobError;
use crate::protocol::Ingested;

/// Stores open files as objects.
pub(super) fn ingest(context: &WorkerContext, files: Vec<File>) -> Result<Vec<Ingested>> {
    files.into_par_iter().map(|file| ingest_file(context, file)).collect()
}

fn ingest_file(context: &WorkerContext, mut file: File) -> Result<Ingested> {
    let path = Path::new("a local file");
    let stat = rustix::fs::fstat(&file).map_err(JobError::file("reading the status of", path))?;
    if !disk::is_sparse(&stat) {
        let (stored, size) = context.objects.put(&mut file, &context.temporary_path())?;
        return Ok(Ingested { digest: stored.digest, size, is_new: stored.is_new });
    }
    let temporary = context.temporary_path();
    let mut copy = disk::create(&temporary)?;
    content::copy(&file, &mut copy, &temporary)?;
    let (digest, size) = content::hash(&copy, &temporary, &AtomicBool::new(false))?;
    let stored = context.objects.adopt(&digest, size, &temporary)?;
    Ok(Ingested { digest, size, is_new: stored.is_new })
}
