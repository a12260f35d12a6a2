//! Targets on the command line: the library's grammar, and `T[=PORT]` for `up`.

use std::str::FromStr;

use hoody_tunnel::client::Target;

/// A target of `up`, with the port on the kit that was asked for, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The local server.
    pub target: Target,
    /// The port on the kit; 0 has the kit pick one.
    pub port: Option<u16>,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Pair, String> {
        let (target, port) = match text.rsplit_once('=') {
            Some((target, port)) if !port.contains('/') => (target, Some(parse_port(port)?)),
            // A path may have one of its own.
            _ => (text, None),
        };
        Ok(Pair {
            target: parse(target)?,
            port,
        })
    }
}

/// Reads a target.
pub fn parse(text: &str) -> Result<Target, String> {
    text.parse::<Target>().map_err(|error| error.to_string())
}

/// Reads a port of the kit; 0 has the kit pick one.
pub fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| format!("`{}` is not a port: write 0 to 65535", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(text: &str) -> Result<(String, Option<u16>), String> {
        let pair: Pair = text.parse()?;
        Ok((pair.target.to_string(), pair.port))
    }

    #[test]
    fn a_pair_is_a_target_and_perhaps_a_port() {
        assert_eq!(pair("3000"), Ok(("localhost:3000".into(), None)));
        assert_eq!(
            pair(":3000=8080"),
            Ok(("localhost:3000".into(), Some(8080)))
        );
        assert_eq!(
            pair("http://h:1/a=b/c"),
            Ok(("http://h:1/a=b/c".into(), None))
        );
        assert_eq!(
            pair("http://h:1/a=b/c=8080"),
            Ok(("http://h:1/a=b/c".into(), Some(8080)))
        );
        assert_eq!(
            pair("unix:/run/a=b.sock=0"),
            Ok(("unix:/run/a=b.sock".into(), Some(0)))
        );
        assert_eq!(pair("[::1]:3000=0"), Ok(("[::1]:3000".into(), Some(0))));
        assert_eq!(
            pair("db.lan:5432=5433"),
            Ok(("db.lan:5432".into(), Some(5433)))
        );
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        for text in [
            "",
            "=",
            "3000=",
            "=3000",
            "3000=x",
            "3000=70000",
            "3000=+1",
            "3000=1=2",
        ] {
            assert!(pair(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pasted_url_is_a_target_and_one_of_another_scheme_is_told_what_to_write() {
        let target = parse("http://localhost:3000/").expect("it names a server");
        assert_eq!(target.to_string(), "localhost:3000");
        let refused = parse("tcp://localhost:3000").unwrap_err();
        assert!(refused.contains("localhost:3000,"), "{refused}");
    }

    #[test]
    fn a_refusal_cannot_steer_the_terminal() {
        assert!(!parse("\x1b[2J").unwrap_err().contains('\x1b'));
        assert!(!parse("http://\x1b[2J").unwrap_err().contains('\x1b'));
    }
}
