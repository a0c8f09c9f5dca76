//! Labels: the Service's name beside its number, so that tables can be read when no agent runs, and so that an agent
//! that restarts gives the same Service the same number.

pod! {
    /// `namespace/name:port/protocol family` in UTF-8, filled up with zeros. Namespace, Service and port names have at most
    /// 63 characters each (RFC 1035 labels), so all that Kubernetes accepts fits; what is longer is cut.
    pub struct Label {
        /// The text.
        pub text: [u8; 200],
    }
    size: 200;
}

impl Label {
    /// From a text; what does not fit is cut at a character boundary.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; 200];
        let mut len = text.len().min(bytes.len());
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { text: bytes }
    }

    /// The text; what is no UTF-8 (a foreign writer) reads as empty.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.text.iter().position(|&byte| byte == 0).unwrap_or(self.text.len());
        core::str::from_utf8(&self.text[..len]).unwrap_or("")
    }
}
