use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::Timestamp;

fn directory(path: &str) -> Entry {
    Entry { path: path.into(), node: Node::Directory { meta: Metadata::root_owned(0o755), opaque: false } }
}

fn file(path: &str, contents: &[u8]) -> Entry {
    let node =
        Node::File { meta: Metadata::root_owned(0o644), size: contents.len() as u64, digest: Digest::of(contents) };
    Entry { path: path.into(), node }
}

fn every_kind() -> Tree {
    let modified = Timestamp { seconds: -1, nanoseconds: 999_999_999 };
    let mut capable = Metadata { mode: 0o4755, uid: 1, gid: 2, modified, xattrs: BTreeMap::new() };
    capable.xattrs.insert(b"security.capability".to_vec(), vec![1, 0, 0, 2]);
    let entry = |path: &[u8], node| Entry { path: path.to_vec(), node };
    Tree::new(vec![
        file("a/two", b"two"),
        directory("a"),
        directory(""),
        entry(b"a/one", Node::File { meta: capable, size: 3, digest: Digest::of(b"one") }),
        entry(b"a/three", Node::HardLink { target: b"a/one".to_vec() }),
        entry(b"a-link", Node::Symlink { meta: Metadata::root_owned(0o777), target: b"a/\xff".to_vec() }),
        entry(b"opaque", Node::Directory { meta: Metadata::root_owned(0o1777), opaque: true }),
        entry(b"pipe\xfe", Node::Fifo { meta: Metadata::root_owned(0o600) }),
        entry(b"null", Node::Device { meta: Metadata::root_owned(0o666), block: false, major: 1, minor: 3 }),
        entry(b"sda", Node::Device { meta: Metadata::root_owned(0o660), block: true, major: 8, minor: 0 }),
        entry(b"gone", Node::Whiteout),
    ])
    .unwrap()
}

/// Changing these digests orphans every layer in every store: raise the format's version instead.
#[test]
fn the_digests_are_pinned() {
    let (tree, empty) = (every_kind(), Tree::new(vec![directory("")]).unwrap());
    insta::assert_snapshot!(tree.digest(), @"59ae82b1a99058bca91fee300c19d0ae3ee06dc80606454acbcfb7787cb776fc");
    insta::assert_snapshot!(empty.digest(), @"0c6503be77b00c964a0a166c36bbce1b7ed2e3ddccafde07d70520ef8e6f03aa");
    insta::assert_snapshot!(tree.content(), @"a478b64fb7d6a9f23e04e7e08e8b6bb76c6853b2f935fd6bad837bfd0ce4a188");
    insta::assert_snapshot!(empty.content(), @"aedce91f878166e4e111d71c275994baf7ac0d2c82e31332c49a76c96cf6da01");
}

#[test]
fn an_encoded_tree_has_what_the_tree_has() {
    let tree = every_kind();
    let encoded = tree.encode();
    let looked_up = EncodedTree::new(encoded.clone()).unwrap();
    for entry in tree.entries() {
        assert_eq!(looked_up.node(&entry.path).as_ref(), Some(&entry.node), "{}", lossy(&entry.path));
    }
    for path in ["0", "a/", "a/tw", "a/two2", "zzz"] {
        assert_eq!(looked_up.node(path.as_bytes()), None, "{path}");
    }
    let cuts = (0..encoded.len()).filter(|length| EncodedTree::new(encoded[..*length].to_vec()).is_ok());
    assert!(cuts.count() <= tree.entries().len(), "only cuts between entries pass");
}

#[test]
fn every_kind_of_entry_survives_and_every_truncation_is_refused() {
    let tree = every_kind();
    let encoded = tree.encode();
    assert_eq!(Tree::decode(&encoded).unwrap(), tree);
    assert_eq!(tree.totals(), (2, 6));
    for length in 0..encoded.len() {
        // A cut between two entries leaves a valid shorter tree; its digest differs, which is how it is told apart.
        if let Ok(shorter) = Tree::decode(&encoded[..length]) {
            assert!(shorter.entries().len() < tree.entries().len());
            assert_eq!(shorter.encode(), &encoded[..length]);
        }
    }
}

#[test]
fn the_part_without_contents_has_the_outline_of_the_whole() {
    let encoded = every_kind().encode();
    for (most_bytes, length) in [(5, 4), (6, 6)] {
        let part = Tree::without_contents(&encoded, most_bytes).unwrap();
        assert_eq!(Tree::outline(&part, most_bytes).unwrap(), Tree::outline(&encoded, most_bytes).unwrap());
        assert_eq!(Tree::decode(&part).unwrap().entries().len(), length);
    }
    assert!(Tree::without_contents(&encoded[..encoded.len() - 1], 5).is_err());
}

#[test]
fn impossible_trees_are_refused() {
    let with = |entry: Entry| Tree::new(vec![directory(""), directory("d"), entry]);
    let deep = format!("d/{}", "x".repeat(256));
    for path in ["/d", "d//x", "d/..", "./d", "d/", "d/\0", &deep] {
        assert!(matches!(with(file(path, b"x")), Err(TreeError::Path(_))), "{path}");
    }
    assert!(matches!(with(directory("d")), Err(TreeError::Order(_))));
    assert!(matches!(with(file("missing/x", b"x")), Err(TreeError::Orphan(_))));
    assert!(matches!(Tree::new(vec![directory("d")]), Err(TreeError::Orphan(_))));
    assert!(matches!(Tree::new(Vec::new()), Err(TreeError::Orphan(_))));
    let link = Entry { path: b"x".to_vec(), node: Node::HardLink { target: b"../../etc/shadow".to_vec() } };
    assert!(matches!(with(link), Err(TreeError::Link(_))));
    let symlink = Node::Symlink { meta: Metadata::root_owned(0o644), target: b"x".to_vec() };
    assert!(matches!(with(Entry { path: b"x".to_vec(), node: symlink }), Err(TreeError::Value(_))));
    assert_eq!(Tree::decode(b"LAMINA-TREE\x03"), Err(TreeError::Format));
}

fn any_meta() -> impl Strategy<Value = Metadata> {
    let xattrs = prop::collection::btree_map("user\\.[a-z]{1,8}", prop::collection::vec(any::<u8>(), 0..20), 0..3);
    let time = (any::<i64>(), 0..1_000_000_000_u32);
    (0..0o10000_u32, any::<u32>(), any::<u32>(), time, xattrs).prop_map(|(mode, uid, gid, time, xattrs)| Metadata {
        mode,
        uid,
        gid,
        modified: Timestamp { seconds: time.0, nanoseconds: time.1 },
        xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    let target = prop::collection::vec(1..=u8::MAX, 1..30);
    prop_oneof![
        (any_meta(), any::<bool>()).prop_map(|(meta, opaque)| Node::Directory { meta, opaque }),
        (any_meta(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(meta, size, digest)| Node::File {
            meta,
            size,
            digest: Digest::from_bytes(digest)
        }),
        (any_meta(), target)
            .prop_map(|(meta, target)| Node::Symlink { meta: Metadata { mode: 0o777, ..meta }, target }),
        any_meta().prop_map(|meta| Node::Fifo { meta }),
        Just(Node::Whiteout),
    ]
}

proptest! {
    #[test]
    fn encoding_round_trips(nodes in prop::collection::btree_map(
        prop::collection::vec(1..=u8::MAX, 1..12).prop_map(|name| {
            name.into_iter().map(|byte| if byte == b'/' || byte == b'.' { b'_' } else { byte }).collect::<Vec<u8>>()
        }),
        any_node(),
        0..20,
    )) {
        let mut entries = vec![directory("")];
        entries.extend(nodes.into_iter().map(|(path, node)| Entry { path, node }));
        let tree = Tree::new(entries).unwrap();
        let encoded = tree.encode();
        prop_assert_eq!(Tree::decode(&encoded).unwrap(), tree);
    }

    #[test]
    fn what_decodes_is_canonical(position in 0_usize..600, value: u8) {
        let mut encoded = every_kind().encode();
        let position = position % encoded.len();
        encoded[position] = value;
        if let Ok(tree) = Tree::decode(&encoded) {
            prop_assert_eq!(tree.encode(), encoded);
        }
    }

    #[test]
    fn rubbish_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut with_magic = MAGIC.to_vec();
        with_magic.extend(&bytes);
        let _ = (Tree::decode(&bytes), Tree::decode(&with_magic));
    }
}
