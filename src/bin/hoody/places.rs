//! What is where: the address that leads to each end of a tunnel, always one that can be pasted,
//! and the table of all of them.

use hoody_tunnel::client::Forwarding;

use crate::text;
use hoody_tunnel::client::BindingKind;

/// Where the ports of a kit are, as far as its URL tells.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The kit's host; none where the kit says all addresses itself.
    pub host: Option<String>,
}

impl Places {
    /// Where to connect for a port that the kit opened: what the kit says of it, else what its URL
    /// tells.
    pub fn address(&self, port: &Port<'_>) -> String {
        let host = self.host.as_deref().unwrap_or("127.0.0.1");
        let number = port.number;
        match (port.public_url, port.is_pull) {
            (Some(url), _) => url.to_owned(),
            (None, true) => {
                let on = in_brackets(port.on.unwrap_or("127.0.0.1"));
                format!("{on}:{number} in {host}")
            }
            (None, false) => {
                let scheme = port.kind.name();
                format!("{scheme}://{}:{number}", in_brackets(host))
            }
        }
    }

    /// A port of this machine that leads to the container.
    pub fn forwarded(&self, port: &Forwarding) -> Row {
        let host = self.host.as_deref().unwrap_or("127.0.0.1");
        Row {
            direction: "forward".into(),
            address: port.local_addr.to_string(),
            target: format!("{} in {host}", port.target),
            label: None,
        }
    }
}

/// A row of the table.
pub struct Row {
    /// `expose`, `pull` or `forward`.
    pub direction: String,
    /// Where to connect.
    pub address: String,
    /// What is reached.
    pub target: String,
    /// The name for people.
    pub label: Option<String>,
}

/// A port that a kit opened.
pub struct Port<'a> {
    /// Its number.
    pub number: u16,
    /// What the kit says of where the world reaches it.
    pub public_url: Option<&'a str>,
    /// On the container's loopback, and at which of its addresses.
    pub is_pull: bool,
    pub on: Option<&'a str>,
    /// What it carries.
    pub kind: BindingKind,
}

/// An address of IPv6 as it stands in front of a port.
fn in_brackets(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

/// All that stands, one row each: direction, where to connect, what is reached, its name.
pub fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            let label = row.label.as_deref().unwrap_or("-");
            [&row.direction, &row.address, &row.target, label].map(text::visible)
        })
        .collect();
    let head = ["DIRECTION", "CONNECT TO", "TARGET", "LABEL"].map(str::to_owned);
    let all: Vec<&[String; 4]> = std::iter::once(&head).chain(&cells).collect();
    let width = |at: usize| all.iter().map(|row| row[at].chars().count()).max();
    let widths: Vec<usize> = (0..3).map(|at| width(at).unwrap_or(0)).collect();
    let line = |row: &&[String; 4]| {
        let [direction, address, target, label] = *row;
        let (a, b, c) = (widths[0], widths[1], widths[2]);
        format!("{direction:<a$}  {address:<b$}  {target:<c$}  {label}")
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_an_address_that_can_be_pasted() {
        let at = |host: Option<&str>, public_url, is_pull, on, kind| {
            let host = host.map(str::to_owned);
            let port = Port {
                number: 3000,
                public_url,
                is_pull,
                on,
                kind,
            };
            Places { host }.address(&port)
        };
        let kit = Some("kit.example");
        assert_eq!(
            at(
                kit,
                Some("https://a-3000.example"),
                false,
                None,
                BindingKind::Http
            ),
            "https://a-3000.example"
        );
        assert_eq!(
            at(kit, None, false, None, BindingKind::Http),
            "http://kit.example:3000"
        );
        assert_eq!(
            at(kit, None, false, None, BindingKind::Tcp),
            "tcp://kit.example:3000"
        );
        assert_eq!(
            at(Some("::1"), None, false, None, BindingKind::Tcp),
            "tcp://[::1]:3000"
        );
        assert_eq!(
            at(kit, None, true, None, BindingKind::Tcp),
            "127.0.0.1:3000 in kit.example"
        );
        assert_eq!(
            at(kit, None, true, Some("::1"), BindingKind::Tcp),
            "[::1]:3000 in kit.example"
        );
        assert_eq!(
            at(None, None, false, None, BindingKind::Http),
            "http://127.0.0.1:3000"
        );
    }

    #[test]
    fn a_table_has_a_row_for_each_and_columns_that_stand() {
        let row = |direction: &str, address: &str, label: Option<&str>| Row {
            direction: direction.into(),
            address: address.into(),
            target: "localhost:1".into(),
            label: label.map(str::to_owned),
        };
        let (one, two) = (
            row("expose", "tcp://a:1", Some("\u{1b}[2J")),
            row("pull", "127.0.0.1:1 in a", None),
        );
        let text = table(&[one, two]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], "pull       127.0.0.1:1 in a  localhost:1  -");
        assert!(lines[1].starts_with("expose     tcp://a:1         localhost:1  "));
        assert!(!text.contains('\u{1b}'));
    }
}
