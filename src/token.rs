//! The token that clients must present with `--token`, as a bearer token (RFC 6750) or in the query.

use std::hint::black_box;

use wspush::{
    Refusal,
    http::{Request, StatusCode, header::AUTHORIZATION},
    refuse,
};

/// A secret: it has no `Debug`, so that it can't be logged by mistake.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// Returns `None` if the text is too short for a secret, or if it would have to be escaped in a URL.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        (text.len() >= 16 && text.bytes().all(is_allowed)).then(|| Self(text.into()))
    }

    /// Refuses a request that presents no token, or another one.
    pub(crate) fn check(&self, request: &Request<()>) -> Result<(), Refusal> {
        let fields = request.headers().get_all(AUTHORIZATION).iter();
        let bearer = fields.filter_map(|field| bearer_token(field.as_bytes()));
        let query = request.uri().query().unwrap_or_default().split('&');
        let parameters = query.filter_map(|part| part.strip_prefix("token="));
        let mut presented = bearer.chain(parameters.map(str::as_bytes));
        if presented.any(|token| self.equals(token)) {
            return Ok(());
        }
        let reason = "The token is missing or wrong. Send it as Authorization: Bearer TOKEN, or as ?token=TOKEN in the URL.";
        Err(refuse(StatusCode::UNAUTHORIZED, reason))
    }

    /// Compares in constant time: an early end would reveal how much is right.
    fn equals(&self, other: &[u8]) -> bool {
        let pairs = self.0.bytes().zip(other);
        let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
        black_box(difference) == 0 && self.0.len() == other.len()
    }
}

fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ");
    is_bearer.then(|| token.trim_ascii())
}
