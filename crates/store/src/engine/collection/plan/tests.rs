//! Tests of which images and layers go.

use std::collections::HashMap;

use lamina_image::{RecordedFacts, RuntimeConfig};

use super::*;
use crate::tree::{Entry, Node, Tree};
use crate::{LayerPart, Metadata};

const DAY: u64 = 86_400;
const NOW: i64 = 1_000 * 86_400;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// An image of these layers, whose keys have their names, made and used so many days ago.
fn image(id: &str, layers: &[&str], made: u64, used: u64) -> ImageRecord {
    ImageRecord {
        id: id.to_owned(),
        layers: Stack::from_bottom_up(layers.iter().map(|name| digest(name))),
        keys: layers.iter().map(|name| LayerKey(digest(name))).collect(),
        config: RuntimeConfig::default(),
        title: id.to_owned(),
        created: NOW.cast_unsigned() - made * DAY,
        last_used: NOW.cast_unsigned() - used * DAY,
        bytes: 0,
        logs: Vec::new(),
        contents: Stack::new(),
        facts: RecordedFacts::default(),
        titles: Vec::new(),
        attached: Vec::new(),
    }
}

fn layer(name: &str, made: u64, material: serde_json::Value) -> LayerRecord {
    LayerRecord {
        key: LayerKey(digest(name)),
        digest: digest(name),
        content: digest(name),
        below: Stack::new(),
        companion_of: None,
        fetched_from: None,
        title: name.to_owned(),
        created: NOW.cast_unsigned() - made * DAY,
        seconds: 0.0,
        files: 0,
        bytes: 0,
        bytes_new: 0,
        material,
        log: None,
        facts: lamina_image::RecordedFacts::default(),
    }
}

fn plain(name: &str) -> LayerRecord {
    layer(name, 100, serde_json::Value::Null)
}

/// The ids of images that go, the titles of layers that go.
fn outcome(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
    let images = plan.images.iter().map(|image| &*image.id).collect();
    (images, plan.layers.iter().map(|layer| &*layer.title).collect())
}

fn decide(images: &[ImageRecord], layers: &[LayerRecord], held: &[&str], policy: &Policy) -> Plan {
    let held = held.iter().map(|name| digest(name)).collect();
    let named = ["named".to_owned()].into();
    let facts = Facts { images, layers, held: &held, named: &named, cutoff: policy.cutoff(NOW), now: NOW };
    plan(&facts, policy, &mut Sizes::new(&|_| None), 0)
}

fn unused_for(days: u64) -> Policy {
    Policy { unused_for: Some(Duration::from_secs(days * DAY)), ..Policy::default() }
}

#[test]
fn what_was_not_used_goes_with_the_layers_that_only_it_has() {
    let images = [image("new", &["base", "a"], 90, 1), image("old", &["base", "b"], 90, 40)];
    let layers = ["base", "a", "b"].map(plain);
    let plan = decide(&images, &layers, &[], &unused_for(30));
    assert_eq!(outcome(&plan), (vec!["old"], vec!["b"]));
    assert_eq!(plan.live, HashSet::from(["base", "a"].map(digest)));
    assert_eq!(outcome(&decide(&images, &layers, &[], &unused_for(50))), (vec![], vec![]));
    assert_eq!(outcome(&decide(&images, &layers, &[], &unused_for(0))), (vec!["new", "old"], vec!["base", "a", "b"]));
}

#[test]
fn two_ages_have_to_hold_both() {
    let images = [image("young", &["a"], 10, 5), image("busy", &["b"], 90, 0), image("idle", &["c"], 90, 40)];
    let older = Policy { older_than: Some(Duration::from_secs(60 * DAY)), ..Policy::default() };
    assert_eq!(outcome(&decide(&images, &[], &[], &older)).0, ["busy", "idle"]);
    let both = Policy { older_than: older.older_than, ..unused_for(3) };
    assert_eq!(outcome(&decide(&images, &[], &[], &both)).0, ["idle"]);
}

#[test]
fn what_is_in_use_stays_and_is_named() {
    let images = [image("run", &["base", "a"], 90, 90), image("built-on-it", &["base", "a", "b"], 90, 90)];
    let layers = ["base", "a", "b"].map(plain);
    for policy in [unused_for(0), Policy { ids: vec!["run".into(), "built-on-it".into()], ..Policy::default() }] {
        let plan = decide(&images, &layers, &["base", "a"], &policy);
        assert_eq!(outcome(&plan), (vec!["built-on-it"], vec!["b"]));
        assert_eq!(plan.used.iter().map(|image| &*image.id).collect::<Vec<_>>(), ["run"]);
    }
}

#[test]
fn named_images_go_alone_whatever_their_age() {
    let images = [image("one", &["base", "a"], 0, 0), image("two", &["base"], 90, 90)];
    let layers = [plain("base"), plain("a"), layer("of-no-image", 100, serde_json::Value::Null)];
    let policy = Policy { ids: vec!["one".into()], ..Policy::default() };
    assert_eq!(outcome(&decide(&images, &layers, &[], &policy)), (vec!["one"], vec!["a"]));
}

#[test]
fn nothing_goes_that_was_not_agreed_to() {
    let images = [image("shown", &["a"], 90, 90), image("made-meanwhile", &["b"], 90, 90)];
    for policy in [unused_for(0), Policy { maximum_bytes: Some(0), ..Policy::default() }] {
        let policy = Policy { among: Some(vec!["shown".into()]), ..policy };
        let held = HashSet::new();
        let facts = Facts { images: &images, layers: &[], held: &held, named: &HashSet::new(), cutoff: None, now: NOW };
        let mut sizes = Sizes::new(&|_| Some(tree_of("1")));
        assert_eq!(outcome(&plan(&facts, &policy, &mut sizes, 0)).0, ["shown"]);
    }
}

#[test]
fn images_with_names_stay_unless_they_are_asked_for() {
    let images = [image("named", &["base", "a"], 90, 90), image("other", &["base", "b"], 90, 90)];
    let layers = ["base", "a", "b"].map(plain);
    assert_eq!(outcome(&decide(&images, &layers, &[], &unused_for(30))), (vec!["other"], vec!["b"]));
    let policy = Policy { ids: vec!["named".into()], ..Policy::default() };
    assert_eq!(outcome(&decide(&images, &layers, &[], &policy)), (vec!["named"], vec!["a"]));
}

#[test]
fn layers_of_no_image_go_by_their_own_age_and_companions_with_their_image() {
    let images = [image("new", &["base", "b"], 0, 0), image("old", &["base", "a"], 90, 90)];
    let companion = |name: &str, of: &[&str]| {
        let image = Stack::from_bottom_up(of.iter().map(|name| digest(name)));
        LayerRecord { companion_of: Some(image), ..plain(name) }
    };
    let former_companion = |name: &str, of: &[&str]| {
        let image: Vec<_> = of.iter().map(|name| digest(name).hex()).collect();
        layer(name, 100, serde_json::json!({ "step": "bytecode", "image": image }))
    };
    let step_with_image = serde_json::json!({ "kind": "pull", "image": [digest("base").hex()] });
    let layers = [
        plain("base"),
        plain("a"),
        companion("bytecode of new", &["base", "b"]),
        companion("bytecode of what new begins with", &["base"]),
        companion("bytecode of what new lies on otherwise", &["b"]),
        companion("bytecode of old", &["base", "a"]),
        former_companion("former of new", &["base", "b"]),
        former_companion("former of old", &["base", "a"]),
        layer("a step that names an image", 100, step_with_image),
        layer("failed today", 0, serde_json::Value::Null),
        layer("failed long ago", 100, serde_json::Value::Null),
    ];
    let plan = decide(&images, &layers, &[], &unused_for(30));
    assert_eq!(
        outcome(&plan),
        (
            vec!["old"],
            vec![
                "a",
                "bytecode of what new lies on otherwise",
                "bytecode of old",
                "former of old",
                "a step that names an image",
                "failed long ago"
            ]
        )
    );
}

#[test]
fn all_layers_of_a_step_stay_or_go_together() {
    let several = |name: &str, below: &[&str]| {
        let below = below.iter().map(|name| LayerPart { digest: digest(name), content: digest(name) });
        LayerRecord { below: Stack::from_bottom_up(below), ..plain(name) }
    };
    let image = ImageRecord { keys: vec![LayerKey(digest("top")); 3], ..image("new", &["a", "b", "top"], 0, 0) };
    let layers = [several("top", &["a", "b"]), several("gone", &["a", "c"])];
    let plan = decide(&[image], &layers, &[], &unused_for(30));
    assert_eq!(outcome(&plan), (vec![], vec!["gone"]));
    assert_eq!(plan.live, ["a", "b", "top"].map(digest).into());
}

/// Reads trees with one file of so many blocks for each letter of the layer's name.
fn tree_of(name: &str) -> Tree {
    let directory = Node::Directory { meta: Metadata::root_owned(0o755), opaque: false };
    let file = |letter: char| Node::File {
        meta: Metadata::root_owned(0o644),
        size: 4096 * u64::from(letter.to_digit(36).unwrap_or_default()),
        digest: digest(&letter.to_string()),
    };
    let files = name.chars().map(|letter| Entry { path: letter.to_string().into_bytes(), node: file(letter) });
    Tree::new(std::iter::once(Entry { path: Vec::new(), node: directory }).chain(files).collect()).unwrap()
}

#[test]
fn a_limit_lets_the_least_recently_used_go_until_the_rest_fits() {
    let names = ["1", "2", "3", "12"];
    let trees: HashMap<Digest, Tree> = names.iter().map(|name| (digest(name), tree_of(name))).collect();
    let read = |digest: &Digest| trees.get(digest).cloned();
    let images = [image("first", &["1", "2"], 0, 0), image("second", &["3"], 0, 1), image("third", &["12"], 0, 2)];
    let held = HashSet::new();
    let facts =
        Facts { images: &images, layers: &[], held: &held, named: &HashSet::new(), cutoff: Some(NOW), now: NOW };
    let with_limit = |blocks: u64| {
        let policy = Policy { maximum_bytes: Some(blocks * 4096 + 100), ..Policy::default() };
        let plan = plan(&facts, &policy, &mut Sizes::new(&read), 100);
        plan.images.into_iter().map(|image| image.id).collect::<Vec<_>>()
    };
    // The third shares all of its files with the first: six blocks in all.
    assert_eq!(with_limit(6), Vec::<String>::new());
    assert_eq!(with_limit(5), ["third", "second"]);
    assert_eq!(with_limit(2), ["third", "second", "first"]);
}

#[test]
fn sizes_count_every_object_once() {
    let read = |digest: &Digest| Some(if *digest == super::tests::digest("a") { tree_of("12") } else { tree_of("23") });
    let mut sizes = Sizes::new(&read);
    sizes.add(&digest("a"));
    sizes.add(&digest("b"));
    assert_eq!(sizes.total(), 6 * 4096);
    assert_eq!((sizes.unique(&[digest("a")]), sizes.unique(&[digest("b")])), (4096, 3 * 4096));
    sizes.remove(&digest("a"));
    assert_eq!(sizes.total(), 5 * 4096);
}
