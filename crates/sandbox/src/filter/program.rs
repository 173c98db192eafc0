//! Filter programs: which answer the kernel gives to a system call, as instructions for its classic BPF machine.
//!
//! A program looks for the number of the call by halving: the kernel runs a new program once for each number, to remember
//! those that are always allowed, so that a list would cost every sandbox time.

use std::ops::Range;

use libc::sock_filter;
use rustix::io::Errno;

use super::table::Architecture;

/// Where the kernel puts what it tells about a call.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// What is done about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is made.
    Allow,
    /// It is answered with this error, or with success by number zero.
    Answer(i32),
    /// The first condition that holds decides; if none does, it is made.
    Conditions(Vec<Condition>),
}

/// An answer for some arguments. Only the lower half of an argument is looked at: what is compared here are integers of 32
/// bits, of which the kernel takes no more either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    /// All of these must hold.
    pub(super) tests: Vec<Test>,
    /// Then this is the answer.
    pub(super) answer: Errno,
}

/// A comparison of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// It has one of these bits.
    AnyBit { argument: u32, bits: u32 },
    /// It is this, as far as the mask goes.
    Equal { argument: u32, mask: u32, value: u32 },
    /// It is none of these.
    NoneOf { argument: u32, values: &'static [u32] },
}

/// Assembles a program. `decisions` are in the order of their numbers; all others are answered with "not implemented", and a
/// process that calls by the numbers of another architecture is killed.
pub(super) fn assemble(architecture: Architecture, decisions: &[(u32, Decision)]) -> Option<Vec<sock_filter>> {
    let mut program = vec![
        statement(LOAD, ARCHITECTURE),
        jump(JUMP_IF_EQUAL, architecture.audit_number(), 1, 0),
        statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        statement(LOAD, NUMBER),
    ];
    let ranges = ranges(decisions);
    program.extend(search(&ranges, 0..ranges.len())?);
    Some(program)
}

/// Neighbouring numbers with one decision, as the first of each, without gaps.
fn ranges(decisions: &[(u32, Decision)]) -> Vec<(u32, Decision)> {
    let absent = Decision::Answer(Errno::NOSYS.raw_os_error());
    let mut ranges = vec![(0, absent.clone())];
    let mut add = |start: u32, decision: &Decision| match ranges.last_mut() {
        Some(last) if last.1 == *decision => {}
        Some(last) if last.0 == start => last.1 = decision.clone(),
        _ => ranges.push((start, decision.clone())),
    };
    for (number, decision) in decisions {
        add(*number, decision);
        add(number + 1, &absent);
    }
    // A decision in the place of the gap before it may be that of its neighbour.
    ranges.dedup_by(|next, previous| next.1 == previous.1);
    ranges
}

/// Finds the range of the number that is loaded.
fn search(ranges: &[(u32, Decision)], part: Range<usize>) -> Option<Vec<sock_filter>> {
    if part.len() == 1 {
        return decide(&ranges[part.start].1);
    }
    let middle = part.start + part.len() / 2;
    let (lower, upper) = (search(ranges, part.start..middle)?, search(ranges, middle..part.end)?);
    // A conditional jump reaches 255 instructions, a plain one all.
    let mut program = match u8::try_from(lower.len()) {
        Ok(length) => vec![jump(JUMP_IF_AT_LEAST, ranges[middle].0, length, 0)],
        Err(_) => {
            vec![jump(JUMP_IF_AT_LEAST, ranges[middle].0, 0, 1), statement(JUMP, u32::try_from(lower.len()).ok()?)]
        }
    };
    program.extend(lower);
    program.extend(upper);
    Some(program)
}

fn decide(decision: &Decision) -> Option<Vec<sock_filter>> {
    let mut program = Vec::new();
    match decision {
        Decision::Allow => {}
        Decision::Answer(number) => return Some(vec![answer(*number)]),
        Decision::Conditions(conditions) => {
            for condition in conditions {
                program.extend(check(condition)?);
            }
        }
    }
    program.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    Some(program)
}

/// Returns the answer of a condition if it holds; else goes on behind it.
fn check(condition: &Condition) -> Option<Vec<sock_filter>> {
    let mut program = vec![answer(condition.answer.raw_os_error())];
    // From the last test to the first: what follows a test is skipped if it fails.
    for test in condition.tests.iter().rev() {
        let skip = u8::try_from(program.len()).ok()?;
        let mut instructions = match *test {
            Test::AnyBit { argument, bits } => vec![load(argument), jump(JUMP_IF_ANY_BIT, bits, 0, skip)],
            Test::Equal { argument, mask, value } => {
                vec![load(argument), statement(AND, mask), jump(JUMP_IF_EQUAL, value, 0, skip)]
            }
            Test::NoneOf { argument, values } => {
                let mut instructions = vec![load(argument)];
                for (index, value) in values.iter().enumerate() {
                    let left = u8::try_from(values.len() - 1 - index).ok()?;
                    instructions.push(jump(JUMP_IF_EQUAL, *value, left.checked_add(skip)?, 0));
                }
                instructions
            }
        };
        instructions.append(&mut program);
        program = instructions;
    }
    Some(program)
}

fn load(argument: u32) -> sock_filter {
    let lower_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    statement(LOAD, ARGUMENTS + 8 * argument + lower_half)
}

fn answer(number: i32) -> sock_filter {
    statement(RETURN, libc::SECCOMP_RET_ERRNO | (number.cast_unsigned() & libc::SECCOMP_RET_DATA))
}

fn statement(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The kernel's machine, as far as programs here use it.
#[cfg(test)]
pub(super) fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let (mut accumulator, mut next, mut steps) = (0, 0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[next];
        next += 1;
        steps += 1;
        let mut branch = |condition: bool| next += usize::from(if condition { jt } else { jf });
        match code {
            LOAD => {
                accumulator = match k {
                    NUMBER => number,
                    ARCHITECTURE => architecture,
                    offset => {
                        let argument = arguments[((offset - ARGUMENTS) / 8) as usize];
                        u32::try_from(argument >> (8 * (offset % 8)) & u64::from(u32::MAX)).unwrap()
                    }
                }
            }
            AND => accumulator &= k,
            JUMP => next += k as usize,
            JUMP_IF_EQUAL => branch(accumulator == k),
            JUMP_IF_AT_LEAST => branch(accumulator >= k),
            JUMP_IF_ANY_BIT => branch(accumulator & k != 0),
            RETURN => return (k, steps),
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}
