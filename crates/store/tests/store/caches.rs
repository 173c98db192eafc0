//! Package caches.

use lamina_store::{CacheFilter, Harvest, StoreError};

use crate::support::*;

fn filter(include: &[&str], exclude: &[&str]) -> CacheFilter {
    let owned = |patterns: &[&str]| patterns.iter().map(|it| (*it).to_owned()).collect();
    CacheFilter { include: owned(include), exclude: owned(exclude) }
}

#[test]
fn a_harvest_moves_what_the_filter_takes() {
    let store = TestStore::new();
    assert_eq!(store.cache_directory("apt").unwrap().as_str(), "caches/apt");
    write(store.content("caches/apt/old.deb"), "old");
    let work = store.new_work().unwrap();
    let (upper, work_directory) = store.new_cache_upper(&work, "apt").unwrap();
    assert!(store.content(&work_directory).is_dir());
    for path in ["new.deb", "old.deb", "lock", "partial/half.deb", "sub/deep/other.deb"] {
        write(store.content(&upper).join(path), "new");
    }
    whiteout(store.content(&upper).join("gone.deb"));
    let harvest = store.harvest_cache(&work, "apt", &filter(&["**/*.deb"], &["partial"])).unwrap();
    assert_eq!(harvest, Harvest { files: 3, bytes: 9 });
    assert_eq!(std::fs::read(store.content("caches/apt/old.deb")).unwrap(), b"new");
    assert!(store.content("caches/apt/sub/deep/other.deb").is_file());
    assert_eq!(store.names("caches/apt"), ["new.deb", "old.deb", "sub"]);
}

#[test]
fn a_harvest_leaves_the_cache_alone_where_a_link_or_a_directory_is_in_the_way() {
    let store = TestStore::new();
    store.cache_directory("pip").unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), store.content("caches/pip/link")).unwrap();
    write(store.content("caches/pip/directory/file"), "x");
    let work = store.new_work().unwrap();
    let (upper, _) = store.new_cache_upper(&work, "pip").unwrap();
    std::fs::create_dir(outside.path().join("sub")).unwrap();
    write(store.content(&upper).join("link/planted"), "x");
    write(store.content(&upper).join("link/sub/planted"), "x");
    std::os::unix::fs::symlink("/", store.content(&upper).join("new-link")).unwrap();
    write(store.content(&upper).join("directory"), "x");
    let harvest = store.harvest_cache(&work, "pip", &filter(&[], &[])).unwrap();
    assert_eq!(harvest.files, 0);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(outside.path().join("sub")).unwrap().count(), 0);
    assert!(!store.content("caches/pip/new-link").is_symlink());
}

#[test]
fn names_of_caches_are_file_names() {
    let store = TestStore::new();
    for name in ["", "..", "a/b", ".hidden", "nul\0"] {
        assert!(matches!(store.cache_directory(name), Err(StoreError::Worker(_))), "{name}");
    }
}
