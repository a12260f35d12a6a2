//! Our no: a status and a sentence, as the kit's gateway, its front and the library's small server
//! all say it.

use std::borrow::Cow;

use super::Reject;
use super::date::HttpDate;
use super::head::{Asked, Version};
use super::write::Reply;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// More fields, such as `Retry-After`; our own words.
    fields: OwnFields,
    body: Body,
}

type OwnFields = &'static [(&'static str, &'static str)];

/// The sentence, and what it is said in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    /// A line of plain text.
    Text(Cow<'static, str>),
    /// `{"error":"…"}`
    Json(Cow<'static, str>),
}

impl Refusal {
    /// A sentence for people, without the end of its line.
    pub fn text(status: u16, why: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            status,
            fields: &[],
            body: Body::Text(why.into()),
        }
    }

    /// A sentence for programs (PROTOCOL §10).
    pub fn json(status: u16, why: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            status,
            fields: &[],
            body: Body::Json(why.into()),
        }
    }

    /// The same with more fields.
    pub fn with(self, fields: OwnFields) -> Refusal {
        Refusal { fields, ..self }
    }

    /// The sentence.
    pub fn why(&self) -> &str {
        match &self.body {
            Body::Text(why) | Body::Json(why) => why,
        }
    }

    /// Appends the answer to the request that `asked`; the connection stays if that says so. `date`
    /// is the second, for whoever has a clock.
    pub fn write(&self, out: &mut Vec<u8>, asked: Asked, date: Option<HttpDate>) {
        let (body, is_json) = match &self.body {
            Body::Text(why) => ([why, "\n"].concat().into_bytes(), false),
            Body::Json(why) => {
                let mut body = br#"{"error":"#.to_vec();
                // A string is always JSON, and a Vec takes everything.
                let _ = serde_json::to_writer(&mut body, why);
                body.push(b'}');
                (body, true)
            }
        };
        let content_type = match is_json {
            true => "application/json",
            false => "text/plain; charset=utf-8",
        };
        let reply = Reply {
            status: self.status,
            content_type,
            fields: self.fields,
            date,
            body: &body,
        };
        reply.write(out, asked);
    }

    /// The same to somebody whose request could not be read, or not to its end; the close is
    /// announced. Behind a refused `head` comes no content either (RFC 9110 §9.3.2).
    pub fn write_and_close(&self, out: &mut Vec<u8>, head: bool, date: Option<HttpDate>) {
        let unreadable = Asked {
            head,
            version: Version::Http11,
            keep_alive: false,
            upgrade: false,
        };
        self.write(out, unreadable, date);
    }
}

/// Whether the beginning of a request that cannot be read says HEAD.
pub fn begins_head(request: &[u8]) -> bool {
    let line = request.trim_ascii_start();
    line.starts_with(b"HEAD ")
}

impl From<Reject> for Refusal {
    fn from(Reject { status, why }: Reject) -> Refusal {
        let fields: OwnFields = match status {
            // RFC 9110 §15.5.6: what would be allowed.
            405 => &[("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")],
            _ => &[],
        };
        Refusal::text(status, why).with(fields)
    }
}
