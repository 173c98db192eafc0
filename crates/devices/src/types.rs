//! Types of GPUs: their names in requests, and models of GPUs that are of one.

use lamina_ground::distance;

/// A type that a request may name.
struct Type {
    name: &'static str,
    /// Each is the words of which a model of this type has all.
    models: &'static [&'static [&'static str]],
}

const fn plain(name: &'static str, models: &'static [&'static [&'static str]]) -> Type {
    Type { name, models }
}

/// The types that Modal knows. As there, an H100 may be an H200, and an A100 one with more memory.
const TYPES: [Type; 15] = [
    plain("T4", &[&["T4"]]),
    plain("L4", &[&["L4"]]),
    plain("A10", &[&["A10"], &["A10G"]]),
    plain("A10G", &[&["A10G"], &["A10"]]),
    plain("L40S", &[&["L40S"]]),
    plain("A100", &[&["A100"]]),
    plain("A100-40GB", &[&["A100", "40GB"], &["A100", "80GB"]]),
    plain("A100-80GB", &[&["A100", "80GB"]]),
    plain("RTX-PRO-6000", &[&["RTX", "PRO", "6000"]]),
    plain("H100", &[&["H100"], &["H200"]]),
    plain("H100!", &[&["H100"]]),
    plain("H200", &[&["H200"]]),
    plain("B200", &[&["B200"]]),
    plain("B200+", &[&["B200"], &["B300"]]),
    plain("B300", &[&["B300"]]),
];

/// The names of all known types.
pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|each| each.name)
}

/// Whether a GPU of this model is one of the type. A type that is not in the list is words of the model (`RTX-4090`).
pub(crate) fn is_of(model: &str, kind: &str) -> bool {
    let words: Vec<String> = words(model).map(str::to_ascii_uppercase).collect();
    let has_all = |wanted: &[&str]| !wanted.is_empty() && wanted.iter().all(|word| words.iter().any(|own| own == word));
    match TYPES.iter().find(|each| each.name == kind) {
        Some(each) => each.models.iter().any(|wanted| has_all(wanted)),
        None => has_all(&self::words(kind).collect::<Vec<_>>()),
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

/// The known type that a name is most like, if it is like one.
pub(crate) fn nearest(kind: &str) -> Option<&'static str> {
    let best = known().map(|name| (distance(kind, name), name)).min()?;
    (best.0 <= 1 + kind.len() / 4).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_of_types() {
        for (model, kinds) in [
            ("Tesla T4", &["T4"][..]),
            ("NVIDIA A10G", &["A10", "A10G"]),
            ("NVIDIA A10", &["A10", "A10G"]),
            ("NVIDIA L4", &["L4"]),
            ("NVIDIA A100-SXM4-40GB", &["A100", "A100-40GB"]),
            ("NVIDIA A100 80GB PCIe", &["A100", "A100-40GB", "A100-80GB"]),
            ("NVIDIA H100 80GB HBM3", &["H100", "H100!"]),
            ("NVIDIA H200", &["H100", "H200"]),
            ("NVIDIA B300 SXM6 AC", &["B200+", "B300"]),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", &["RTX-PRO-6000"]),
            ("NVIDIA GH200 480GB", &[]),
        ] {
            let found: Vec<&str> = known().filter(|kind| is_of(model, kind)).collect();
            assert_eq!(found, kinds, "{model}");
        }
        assert!(is_of("NVIDIA GeForce RTX 4090", "RTX-4090") && is_of("NVIDIA GeForce RTX 4090", "4090"));
        assert!(!is_of("NVIDIA GeForce RTX 4090", "RTX-409") && !is_of("NVIDIA GeForce RTX 4090", "-"));
    }

    #[test]
    fn the_nearest_name_is_like_it() {
        let cases = [("H1000", Some("H100")), ("A100-80G", Some("A100-80GB")), ("L40", Some("L4")), ("TPU-V5E", None)];
        for (kind, expected) in cases {
            assert_eq!(nearest(kind), expected, "{kind}");
        }
    }
}
