//! Taking in local files.

use std::fs::File;

use rayon::prelude::*;

use super::WorkerContext;
use super::disk::Result;
use crate::protocol::Ingested;
use crate::{JobError, ObjectMeta};

/// Stores open files as objects of container root.
pub(super) fn ingest(context: &WorkerContext, files: Vec<File>, modes: &[u32]) -> Result<Vec<Ingested>> {
    if files.len() != modes.len() {
        return Err(JobError::new(JobError::STORE, "the number of files and modes differ"));
    }
    files.into_par_iter().zip(modes).map(|(file, mode)| ingest_file(context, file, *mode)).collect()
}

fn ingest_file(context: &WorkerContext, mut file: File, mode: u32) -> Result<Ingested> {
    let meta = ObjectMeta::root_owned(mode & 0o777);
    let (stored, size) = context.objects.put(&mut file, &meta, &context.temporary_path())?;
    Ok(Ingested { digest: stored.digest, size, is_new: stored.is_new })
}
