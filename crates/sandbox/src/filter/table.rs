//! The table of system calls, `calls.txt`, as it applies to one architecture.

/// An architecture that there are filters for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    Arm64,
}

impl Architecture {
    /// That of this program.
    pub(super) const OWN: Self = if cfg!(target_arch = "x86_64") { Self::X86_64 } else { Self::Arm64 };

    /// How the kernel names it to a filter.
    pub(super) fn audit_number(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Arm64 => 0xc000_00b7,
        }
    }
}

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// It is made.
    Allow,
    /// It depends on its arguments.
    Argument,
    /// It is made, or answered with success without being made.
    Synchronise,
    /// It is answered with "operation not permitted".
    Refuse,
    /// It is answered with "not implemented".
    Absent,
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) rule: Rule,
}

/// The system calls of an architecture, by number; `None` if the table is not in its form.
pub(super) fn calls(architecture: Architecture) -> Option<Vec<Call>> {
    let mut rule = None;
    let mut calls = Vec::new();
    for line in include_str!("calls.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&'static str> = line.split_ascii_whitespace().collect();
        match *words {
            [word] => rule = Some(section(word)?),
            [name, x86_64, arm64] => {
                let number = if architecture == Architecture::X86_64 { x86_64 } else { arm64 };
                if number != "-" {
                    calls.push(Call { name, number: number.parse().ok()?, rule: rule? });
                }
            }
            _ => return None,
        }
    }
    calls.sort_unstable_by_key(|call| call.number);
    Some(calls)
}

fn section(word: &str) -> Option<Rule> {
    Some(match word {
        "allow" => Rule::Allow,
        "argument" => Rule::Argument,
        "synchronise" => Rule::Synchronise,
        "refuse" => Rule::Refuse,
        "absent" => Rule::Absent,
        _ => return None,
    })
}
