//! Package caches.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_ground::Stack;
use lamina_store::{CacheFilter, CommitRules, Harvest, Policy, StoreError};

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
fn a_cache_begins_as_a_copy_once_and_is_collected_as_a_whole() {
    let mut store = TestStore::new();
    let layer = store.layer(CommitRules::default(), |upper| {
        write(upper.join("d/sub/large"), "x".repeat(100_000));
        write(upper.join("d/kept"), "x");
        std::fs::set_permissions(upper.join("d"), std::fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("/d", upper.join("link")).unwrap();
    });
    let image = Stack::from_bottom_up([layer.digest]);
    let place = store.seeded_cache("x", "link", &image).unwrap();
    let copy = store.content(&place);
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::metadata(copy.join("sub/large")).unwrap().len(), 100_000);
    write(copy.join("sub/large"), "changed");
    std::fs::remove_file(copy.join("kept")).unwrap();
    assert_eq!(store.seeded_cache("x", "link", &image).unwrap(), place);
    assert_eq!(std::fs::read(copy.join("sub/large")).unwrap(), b"changed");
    assert!(!copy.join("kept").exists(), "it is copied once");
    assert!(matches!(store.seeded_cache("y", "none", &image), Err(StoreError::InvalidFileSet(_))));

    store.reopen();
    let unused = |time| Policy { unused_for: Some(time), ..Policy::default() };
    let collect = |time| store.collect(&unused(time), &CancelToken::new(), &|| ()).unwrap();
    collect(Duration::from_hours(1));
    assert!(copy.join("sub/large").is_file());
    std::thread::sleep(Duration::from_millis(1100));
    collect(Duration::ZERO);
    assert!(!copy.exists() && !copy.parent().unwrap().exists(), "what is left would not be copied again");
}

#[test]
fn names_of_caches_are_file_names() {
    let store = TestStore::new();
    for name in ["", "..", "a/b", ".hidden", "nul\0"] {
        assert!(matches!(store.cache_directory(name), Err(StoreError::Worker(_))), "{name}");
    }
}
