//! Taking over stores of earlier formats.

use super::lock::Lock;
use super::{Shared, collection};
use crate::StoreError;
use crate::protocol::Request;
use lamina_events::CancelToken;

/// Brings a store of an earlier format into the present one. What older formats built is forgotten and removed, because it is
/// built anew anyway; downloads and caches of packages stay, so that little has to be fetched again.
pub(super) fn upgrade(shared: &Shared) -> Result<(), StoreError> {
    let layout = &shared.layout;
    if layout.is_current()? {
        return Ok(());
    }
    let _alone = Lock::take(&collection::lock_file(layout), &CancelToken::new(), || ())?.keep_file();
    if layout.is_current()? {
        return Ok(());
    }
    if shared.session.others(layout)?.oldest.is_some() {
        return Err(StoreError::FormerInUse { path: layout.root().to_owned() });
    }
    if !layout.keeps_what_was_built()? {
        shared.index.clear()?;
        fs_err::remove_dir_all(layout.contexts())?;
        fs_err::create_dir(layout.contexts())?;
        shared.client.call::<()>(Request::RemoveFormer)?;
    }
    layout.record_format()
}
