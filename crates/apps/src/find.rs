//! Finding an app by what a user calls it.

use crate::{AppsError, DetachedApp, DetachedApps};

/// Characters after `ap-` that an abbreviated id has at least: no slip of the hand shall stop an app.
const LEAST_OF_ID: usize = 4;

impl DetachedApps {
    /// The app that a user means: by its id, the beginning of one, or the name of the only one of that name that runs.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn find_running(&self, target: &str) -> Result<DetachedApp, AppsError> {
        let apps = self.list()?;
        match by_id(&apps, target)?.or(by_name(&apps, target)?) {
            Some(app) => Ok(app.clone()),
            None => Err(unknown(&apps, target)),
        }
    }

    /// As [`DetachedApps::find_running`]; where none of that name runs, the one that was started last.
    ///
    /// # Errors
    /// As [`DetachedApps::find_running`].
    pub fn find(&self, target: &str) -> Result<DetachedApp, AppsError> {
        let apps = self.list()?;
        let newest = || apps.iter().find(|app| app.record.name.as_deref() == Some(target));
        match by_id(&apps, target)?.or(by_name(&apps, target)?).or_else(newest) {
            Some(app) => Ok(app.clone()),
            None => Err(unknown(&apps, target)),
        }
    }
}

fn by_id<'a>(apps: &'a [DetachedApp], target: &str) -> Result<Option<&'a DetachedApp>, AppsError> {
    if !is_id(target) {
        return Ok(None);
    }
    let matching: Vec<_> = apps.iter().filter(|app| app.record.id.starts_with(target)).collect();
    match matching[..] {
        [] => Ok(None),
        [app] => Ok(Some(app)),
        _ => Err(AppsError::AmbiguousId { prefix: target.to_owned(), matches: ids(&matching) }),
    }
}

fn by_name<'a>(apps: &'a [DetachedApp], target: &str) -> Result<Option<&'a DetachedApp>, AppsError> {
    let called = |app: &&DetachedApp| app.state.is_running() && app.record.name.as_deref() == Some(target);
    let matching: Vec<_> = apps.iter().filter(called).collect();
    match matching[..] {
        [] => Ok(None),
        [app] => Ok(Some(app)),
        _ => Err(AppsError::AmbiguousName { name: target.to_owned(), matches: ids(&matching) }),
    }
}

/// Why nothing was found.
fn unknown(apps: &[DetachedApp], target: &str) -> AppsError {
    let target = target.to_owned();
    match apps.iter().find(|app| app.record.name.as_deref() == Some(&target)) {
        Some(_) => AppsError::HasEnded(target),
        None if target.starts_with("ap-") && !is_id(&target) => AppsError::NoId(target),
        None => AppsError::Unknown(target),
    }
}

fn is_id(target: &str) -> bool {
    target.strip_prefix("ap-").is_some_and(|rest| rest.len() >= LEAST_OF_ID)
}

fn ids(apps: &[&DetachedApp]) -> String {
    let ids: Vec<_> = apps.iter().map(|app| format!("`{}`", app.record.id)).collect();
    ids.join(", ")
}

#[cfg(test)]
mod tests {
    use crate::{AppRecord, AppState};

    use super::*;

    fn app(id: &str, name: Option<&str>, runs: bool) -> DetachedApp {
        let record = AppRecord { name: name.map(str::to_owned), ..AppRecord::new(id, "app.py", "/", 1) };
        let state = if runs { AppState::Running { pid: Some(1) } } else { AppState::Ended { code: 0, time: 2 } };
        DetachedApp { record, state }
    }

    fn apps() -> [DetachedApp; 5] {
        [
            app("ap-aaaa1", Some("web"), false),
            app("ap-aaaa2", Some("web"), true),
            app("ap-bbbb1", Some("twin"), true),
            app("ap-bbbb2", Some("twin"), true),
            app("ap-cccc1", Some("done"), false),
        ]
    }

    #[test]
    fn ids_may_be_abbreviated_to_four_characters() {
        let apps = apps();
        let id = |target: &str| by_id(&apps, target).map(|app| app.map(|app| &*app.record.id));
        assert_eq!(id("ap-aaaa1").unwrap(), Some("ap-aaaa1"));
        assert_eq!(id("ap-cccc").unwrap(), Some("ap-cccc1"));
        assert_eq!(id("ap-ccc").unwrap(), None);
        let error = id("ap-aaaa").unwrap_err().to_string();
        assert!(error.contains("`ap-aaaa1`, `ap-aaaa2`"), "{error}");
    }

    #[test]
    fn names_mean_what_runs() {
        let apps = apps();
        let id = |target: &str| by_name(&apps, target).map(|app| app.map(|app| &*app.record.id));
        assert_eq!(id("web").unwrap(), Some("ap-aaaa2"));
        assert_eq!(id("done").unwrap(), None);
        assert!(matches!(id("twin"), Err(AppsError::AmbiguousName { .. })));
    }

    #[test]
    fn what_is_not_found_is_explained() {
        let apps = apps();
        assert!(matches!(unknown(&apps, "ap-1"), AppsError::NoId(_)));
        assert!(matches!(unknown(&apps, "ap-1234"), AppsError::Unknown(_)));
        assert!(matches!(unknown(&apps, "done"), AppsError::HasEnded(_)));
        let apps = [app("ap-dddd1", Some("ap-1"), false)];
        assert!(matches!(unknown(&apps, "ap-1"), AppsError::HasEnded(_)));
    }
}
