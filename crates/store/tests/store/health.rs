//! Damage is noticed, and mended from what is sound.

use std::path::{Path, PathBuf};

use lamina_events::CancelToken;
use lamina_ground::Stack;
use lamina_image::Digest;
use lamina_store::{Checked, CommitRules, Committed, ImageRecord, LayerRecord, Outcome, Store};

use crate::index::{image_record, layer_record};
use crate::support::*;

/// A layer with files of several kinds; equal files are in it twice.
fn layer(store: &TestStore, extra: &str) -> Committed {
    store.layer(CommitRules::default(), |upper| {
        write(upper.join("usr/tool"), "the tool");
        write(upper.join("usr/same"), "the tool");
        write(upper.join("usr/other"), "another");
        write(upper.join("etc/empty"), "");
        write(upper.join(extra), "extra");
        std::os::unix::fs::symlink("tool", upper.join("usr/link")).unwrap();
    })
}

fn record(store: &Store, committed: &Committed) -> LayerRecord {
    let record = layer_record(committed.digest.as_bytes(), committed.digest, 1);
    store.record_layer(&record).unwrap();
    record
}

fn check(store: &Store) -> Checked {
    store.check(None, &CancelToken::new(), &|_, _| ()).unwrap()
}

fn repair(store: &Store) -> Checked {
    let mut checked = check(store);
    store.repair(&mut checked, &CancelToken::new(), &|| ()).unwrap();
    checked
}

fn outcomes(checked: &Checked) -> Vec<Outcome> {
    checked.damages.iter().map(|damage| damage.outcome).collect()
}

/// Changes a byte of a file and keeps its times, as a fault of the disk does.
fn flip(path: &Path) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn object(store: &TestStore, bytes: &str) -> PathBuf {
    store.content(lamina_store::ObjectName::new(&Digest::of(bytes.as_bytes())).path())
}

#[test]
fn a_sound_store_stays_as_it_is() {
    let store = TestStore::new();
    let committed = layer(&store, "one");
    assert_eq!(layer(&store, "two").files, committed.files);
    let checked = repair(&store);
    assert_eq!((checked.layers, checked.objects), (2, 3));
    assert_eq!((checked.damages.len(), checked.is_damaged()), (0, false));
}

#[test]
fn a_view_is_made_again_from_its_tree() {
    for damage in [
        (|view: &Path| std::fs::remove_file(view.join("usr/tool")).unwrap()) as fn(&Path),
        |view| std::fs::remove_dir_all(view.join("usr")).unwrap(),
        |view| write(view.join("usr/more"), "more"),
        |view| std::fs::rename(view.join("usr/link"), view.join("usr/renamed")).unwrap(),
        |view| write(view.join("etc/empty"), "no more"),
        |view| set_time(view.join("etc/empty"), std::time::UNIX_EPOCH),
    ] {
        let store = TestStore::new();
        let committed = layer(&store, "one");
        let record = record(&store, &committed);
        damage(&store.view(&committed.digest, ""));
        let checked = check(&store);
        assert_eq!(outcomes(&checked), [Outcome::Stays]);
        assert!(checked.is_damaged());
        let checked = repair(&store);
        assert_eq!(outcomes(&checked), [Outcome::Restored], "{:?}", checked.damages);
        assert!(!checked.is_damaged());
        assert_eq!(store.verify(&committed.digest).unwrap(), Vec::<String>::new());
        assert_eq!(store.read(&committed.digest, "usr/tool"), b"the tool");
        assert_eq!(store.find_layer(&record.key).unwrap(), Some(record));
    }
}

#[test]
fn a_directory_of_objects_that_was_lost_is_made_again() {
    let mut store = TestStore::new();
    let committed = layer(&store, "one");
    record(&store, &committed);
    let directory = object(&store, "the tool").parent().unwrap().to_owned();
    std::fs::remove_dir_all(&directory).unwrap();
    store.reopen();
    assert_eq!(outcomes(&check(&store)), [Outcome::Stays]);
    assert!(!repair(&store).is_damaged());
    assert_eq!(layer(&store, "one").content, committed.content);
    assert_eq!(std::fs::read(object(&store, "the tool")).unwrap(), b"the tool");
    assert!(check(&store).damages.is_empty());
}

#[test]
fn bytes_that_nobody_has_any_more_are_forgotten_and_made_by_the_next_build() {
    let store = TestStore::new();
    let committed = layer(&store, "one");
    let other = store.layer(CommitRules::default(), |upper| write(upper.join("sound"), "sound"));
    let (record, kept) = (record(&store, &committed), record(&store, &other));
    store
        .record_image(&ImageRecord { layers: Stack::from_bottom_up([committed.digest]), ..image_record("im-lost", 1) })
        .unwrap();
    store
        .record_image(&ImageRecord { layers: Stack::from_bottom_up([other.digest]), ..image_record("im-kept", 1) })
        .unwrap();
    flip(&store.bytes(&committed.digest, "one"));
    if std::fs::read(object(&store, "extra")).is_ok_and(|bytes| bytes == b"extra") {
        flip(&object(&store, "extra"));
    }
    let checked = repair(&store);
    assert_eq!(outcomes(&checked), [Outcome::Forgotten], "{:?}", checked.damages);
    assert!(!checked.is_damaged());
    assert_eq!(store.find_layer(&record.key).unwrap(), None);
    assert_eq!(store.find_layer(&kept.key).unwrap(), Some(kept));
    let ids: Vec<_> = store.list_images().unwrap().into_iter().map(|image| image.id).collect();
    assert_eq!(ids, ["im-kept"]);
    assert_eq!(layer(&store, "one").content, committed.content);
    assert!(check(&store).damages.is_empty());
}

#[test]
fn a_tree_that_is_damaged_is_put_aside() {
    let store = TestStore::new();
    let committed = layer(&store, "one");
    let record = record(&store, &committed);
    flip(&store.content(format!("trees/{}", committed.digest)));
    assert_eq!(outcomes(&repair(&store)), [Outcome::Forgotten]);
    assert_eq!(store.find_layer(&record.key).unwrap(), None);
    assert!(!store.content(format!("trees/{}", committed.digest)).exists());
    assert!(check(&store).damages.is_empty());
}

#[test]
fn a_damaged_object_is_made_again_from_a_copy_in_a_view() {
    let store = TestStore::new();
    let committed = layer(&store, "one");
    if store.redirects(&committed.digest) {
        return; // There is no copy.
    }
    flip(&object(&store, "the tool"));
    let checked = repair(&store);
    assert_eq!(outcomes(&checked), [Outcome::Restored], "{:?}", checked.damages);
    assert_eq!(store.verify(&committed.digest).unwrap(), Vec::<String>::new());
    assert_eq!(std::fs::read(object(&store, "the tool")).unwrap(), b"the tool");
}

#[test]
fn an_object_that_no_layer_has_is_put_aside() {
    let store = TestStore::new();
    layer(&store, "one");
    let stray = store.content("objects/A/BCDEFGHIJKLMNOPQRSTUV");
    write(&stray, "not what the name says");
    let checked = check(&store);
    assert_eq!(checked.damaged_objects, [PathBuf::from("objects/A/BCDEFGHIJKLMNOPQRSTUV")]);
    assert!(checked.is_damaged());
    assert!(!repair(&store).is_damaged());
    assert!(!stray.exists());
}

#[test]
fn what_another_process_uses_stays() {
    let store = TestStore::new();
    let committed = layer(&store, "one");
    let other = TestStore::open(&store.root);
    assert!(other.hold(&[committed.digest]).unwrap());
    std::fs::remove_file(store.view(&committed.digest, "usr/tool")).unwrap();
    let checked = repair(&store);
    assert_eq!(outcomes(&checked), [Outcome::InUse]);
    assert!(checked.is_damaged());
    drop(other);
    assert_eq!(outcomes(&repair(&store)), [Outcome::Restored]);
}

#[test]
fn a_step_that_is_run_again_replaces_its_damaged_view() {
    for damage in [
        (|store: &TestStore, digest: &Digest| flip(&store.bytes(digest, "usr/other"))) as fn(&TestStore, &Digest),
        |store, _| flip(&object(store, "another")),
        |store, _| std::fs::remove_file(object(store, "another")).unwrap(),
        |store, digest| std::fs::remove_file(store.view(digest, "usr/other")).unwrap(),
        |store, digest| write(store.view(digest, "usr/more"), "more"),
        |store, digest| flip(&store.content(format!("trees/{digest}"))),
        |store, digest| {
            std::fs::remove_file(store.content(format!("trees/{digest}"))).unwrap();
            std::fs::remove_file(store.view(digest, "usr/other")).unwrap();
        },
    ] {
        let store = TestStore::new();
        let at = |upper: &Path| {
            write(upper.join("usr/other"), "another");
            for path in ["usr/other", "usr", ""] {
                set_time(upper.join(path), std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000));
            }
        };
        let first = store.layer(CommitRules::default(), at);
        damage(&store, &first.digest);
        let second = store.layer(CommitRules::default(), at);
        assert_eq!(second.digest, first.digest);
        assert_eq!(store.read(&second.digest, "usr/other"), b"another");
        assert!(!check(&store).is_damaged());
    }
}

#[test]
fn a_new_layer_takes_no_bytes_over_that_were_changed() {
    let store = TestStore::new();
    layer(&store, "one");
    settle();
    write(object(&store, "another"), "anOther");
    let fresh = store.layer(CommitRules::default(), |upper| write(upper.join("fresh"), "another"));
    assert_eq!(store.read(&fresh.digest, "fresh"), b"another");
    assert_eq!(std::fs::read(object(&store, "another")).unwrap(), b"another");
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("file"), "the tool");
    settle();
    write(object(&store, "the tool"), "the toOl");
    let shown = store.file_set(&directory_set(local.path(), "/local"), &Stack::new()).unwrap();
    assert_eq!(store.read(&shown.digest.unwrap(), "local/file"), b"the tool");
}

#[test]
fn a_look_at_first_use_notices_names_that_came_or_went() {
    for damage in [
        (|view: &Path| std::fs::remove_file(view.join("usr/tool")).unwrap()) as fn(&Path),
        |view| std::fs::remove_dir_all(view.join("etc")).unwrap(),
        |view| write(view.join("usr/more"), "more"),
        |view| std::fs::rename(view.join("usr/link"), view.join("usr/renamed")).unwrap(),
    ] {
        let mut store = TestStore::new();
        let committed = layer(&store, "one");
        let record = record(&store, &committed);
        store.reopen();
        damage(&store.view(&committed.digest, ""));
        assert_eq!(store.find_layer(&record.key).unwrap(), Some(record));
        assert_eq!(store.verify(&committed.digest).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_look_at_a_large_view_keeps_an_outline_and_believes_only_a_whole_one() {
    let mut store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        for number in 0..600 {
            write(upper.join(format!("usr/lib/{}/{number}", number % 7)), "x".repeat(2000));
        }
    });
    let record = record(&store, &committed);
    let outline = store.content(format!("outlines/{}", committed.digest));
    assert!(!outline.exists());
    let mut look = |damage: &dyn Fn(&TestStore)| {
        store.reopen();
        damage(&store);
        assert_eq!(store.find_layer(&record.key).unwrap(), Some(record.clone()));
        assert_eq!(store.verify(&committed.digest).unwrap(), Vec::<String>::new());
        std::fs::read(&outline).unwrap()
    };
    let whole = look(&|_| ());
    assert!(whole.len() < 2000, "{} bytes", whole.len());
    for bytes in [&whole[..whole.len() - 1], &[whole.clone(), vec![0]].concat(), &b""[..]] {
        assert_eq!(look(&|_| std::fs::write(&outline, bytes).unwrap()), whole);
    }
    let lose_a_file = |store: &TestStore| std::fs::remove_file(store.view(&committed.digest, "usr/lib/3/3")).unwrap();
    assert_eq!(look(&lose_a_file), whole);
    let cut = |store: &TestStore| {
        let tree = store.content(format!("trees/{}", committed.digest));
        let length = std::fs::metadata(&tree).unwrap().len();
        std::fs::File::options().write(true).open(tree).unwrap().set_len(length - 1).unwrap();
    };
    store.reopen();
    cut(&store);
    assert_eq!(store.find_layer(&record.key).unwrap(), None, "nothing tells any more what the view has to be");
}

#[test]
fn a_look_at_first_use_notices_deletions_that_came_or_went() {
    type Damage = fn(&Path, &Path);
    let damages: [Damage; 4] = [
        |_, deletions| std::fs::remove_dir_all(deletions).unwrap(),
        |_, deletions| std::fs::remove_file(deletions.join("usr/lib/gone")).unwrap(),
        |_, deletions| whiteout(deletions.join("usr/lib/more")),
        |view, _| rustix::fs::removexattr(view, "user.overlay.lamina.whiteouts").unwrap(),
    ];
    for damage in damages {
        let mut store = TestStore::new();
        let committed = store.layer(CommitRules::default(), |upper| {
            write(upper.join("usr/lib/file"), "file");
            whiteout(upper.join("usr/lib/gone"));
            whiteout(upper.join("gone"));
        });
        if !store.redirects(&committed.digest) {
            return; // Its deletions are in the view.
        }
        let record = record(&store, &committed);
        store.reopen();
        damage(&store.view(&committed.digest, ""), &store.content(format!("whiteouts/{}", committed.digest)));
        assert_ne!(store.verify(&committed.digest).unwrap(), Vec::<String>::new());
        assert_eq!(store.find_layer(&record.key).unwrap(), Some(record));
        assert_eq!(store.verify(&committed.digest).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_view_that_cannot_be_made_again_is_made_by_the_next_build() {
    let mut store = TestStore::new();
    let rules = || CommitRules { package_times: true, ..CommitRules::default() };
    let fill = |upper: &Path| write(upper.join("usr/tool"), "the tool");
    let committed = store.layer(rules(), fill);
    let record = record(&store, &committed);
    store.reopen();
    std::fs::remove_file(store.view(&committed.digest, "usr/tool")).unwrap();
    std::fs::remove_file(object(&store, "the tool")).unwrap();
    assert_eq!(store.find_layer(&record.key).unwrap(), None);
    assert_eq!(store.layer(rules(), fill).digest, committed.digest);
    assert_eq!(store.find_layer(&record.key).unwrap(), Some(record));
}

#[test]
fn a_layer_that_is_expected_is_found_damaged_before_it_is_used() {
    let mut store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| write(upper.join("expected"), "expected"));
    let record = record(&store, &committed);
    store.reopen();
    std::fs::remove_file(store.view(&record.digest, "expected")).unwrap();
    std::fs::remove_file(object(&store, "expected")).unwrap();
    assert_eq!(store.expect_layer(&record.key).unwrap().as_ref(), Some(&record));
    assert!(!store.confirm().unwrap());
    assert_eq!(store.expect_layer(&record.key).unwrap(), None);
    assert_eq!(store.find_layer(&record.key).unwrap(), None);
    assert!(store.confirm().unwrap(), "what is known to be damaged is told once");
}

#[test]
fn what_is_in_use_already_is_not_mended_under_it() {
    let mut store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| write(upper.join("used"), "used"));
    store.reopen();
    assert!(store.begin_hold(&[committed.digest]).unwrap());
    assert!(store.is_intact().unwrap());
    store.reopen();
    let file = store.view(&committed.digest, "used");
    std::fs::remove_file(&file).unwrap();
    assert!(store.begin_hold(&[committed.digest]).unwrap());
    assert!(!store.is_intact().unwrap());
    assert!(!file.exists());
    assert!(!store.is_intact().unwrap(), "it is told until somebody mends it");
    assert!(store.confirm().unwrap());
    assert_eq!(store.read(&committed.digest, "used"), b"used");
    assert!(store.is_intact().unwrap());
}

#[test]
fn what_is_looked_at_ahead_counts_only_when_it_is_used() {
    let mut store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| write(upper.join("ahead"), "ahead"));
    let record = record(&store, &committed);
    store
        .record_image(&ImageRecord { layers: Stack::from_bottom_up([record.digest]), ..image_record("im-ahead", 1) })
        .unwrap();
    store.reopen();
    std::fs::remove_file(store.view(&record.digest, "ahead")).unwrap();
    std::fs::remove_file(object(&store, "ahead")).unwrap();
    store.look_ahead().unwrap();
    assert!(store.confirm().unwrap());
    assert_eq!(store.expect_layer(&record.key).unwrap().as_ref(), Some(&record));
    assert!(!store.confirm().unwrap());
    assert_eq!(store.expect_layer(&record.key).unwrap(), None);
}

#[test]
fn local_files_whose_view_is_damaged_are_shown_anew() {
    let mut store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("file"), "local");
    settle();
    let set = directory_set(local.path(), "/local");
    let shown = store.file_set(&set, &Stack::new()).unwrap().digest.unwrap();
    store.reopen();
    std::fs::remove_file(store.view(&shown, "local/file")).unwrap();
    std::fs::remove_file(object(&store, "local")).unwrap();
    assert_eq!(store.file_set(&set, &Stack::new()).unwrap().digest, Some(shown));
    assert!(!store.confirm().unwrap());
    assert_eq!(store.found_damaged(), 1);
    assert_eq!(store.file_set(&set, &Stack::new()).unwrap().digest, Some(shown));
    assert!(store.confirm().unwrap());
    assert_eq!(store.found_damaged(), 1);
    assert_eq!(store.read(&shown, "local/file"), b"local");
}
