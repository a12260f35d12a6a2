//! What someone who mistyped a command or a flag may have meant.

use argh::{ArgsInfo, CommandInfoWithArgs};

/// The command or flag that comes closest to `typed`, among those that are possible where `args`
/// lead to; `None` when none is close.
pub fn closest<T: ArgsInfo>(args: &[&str], typed: &str) -> Option<String> {
    let mut command: CommandInfoWithArgs = T::get_args_info();
    for arg in args {
        let below = command.commands.iter().position(|sub| sub.name == *arg);
        let Some(below) = below else { break };
        command = command.commands.swap_remove(below).command;
    }
    let flags = command.flags.iter().map(|flag| flag.long);
    let commands = command.commands.iter().map(|sub| sub.name);
    let near = flags
        .chain(commands)
        .map(|name| (distance(typed, name), name))
        .filter(|(distance, name)| *distance <= name.trim_matches('-').len().div_ceil(3));
    near.min().map(|(_, name)| name.to_owned())
}

/// How many letters have to be put in, taken out, changed or swapped with their neighbour to make
/// one word the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // What was typed may be of any length, our names are not: past that nothing is close.
    if one.len() > MOST_LETTERS || other.len() > MOST_LETTERS {
        return usize::MAX;
    }
    let mut table = vec![vec![0; other.len() + 1]; one.len() + 1];
    for (i, row) in table.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in table[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=one.len() {
        for j in 1..=other.len() {
            let changed = usize::from(one[i - 1] != other[j - 1]);
            let mut best = (table[i - 1][j] + 1)
                .min(table[i][j - 1] + 1)
                .min(table[i - 1][j - 1] + changed);
            let is_swap =
                i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
            if is_swap {
                best = best.min(table[i - 2][j - 2] + 1);
            }
            table[i][j] = best;
        }
    }
    table[one.len()][other.len()]
}

const MOST_LETTERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Hoody;

    fn suggestion(args: &str) -> Option<String> {
        let args: Vec<&str> = args.split(' ').collect();
        closest::<Hoody>(&args, args[args.len() - 1])
    }

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        assert_eq!(suggestion("tunel").as_deref(), Some("tunnel"));
        assert_eq!(suggestion("tunnel exopse").as_deref(), Some("expose"));
        assert_eq!(suggestion("tunnel session").as_deref(), Some("sessions"));
        assert_eq!(suggestion("tunnel sessions kil").as_deref(), Some("kill"));
        assert_eq!(
            suggestion("tunnel expose --lable").as_deref(),
            Some("--label")
        );
        assert_eq!(
            suggestion("tunnel expose 3000 --take-over").as_deref(),
            Some("--takeover")
        );
        assert_eq!(suggestion("tunnel expose --token").as_deref(), None);
    }

    #[test]
    fn what_is_like_nothing_gets_no_suggestion() {
        assert_eq!(suggestion("tunnel frobnicate"), None);
        assert_eq!(
            suggestion(&format!("tunnel {}", "expose".repeat(1000))),
            None
        );
    }
}
