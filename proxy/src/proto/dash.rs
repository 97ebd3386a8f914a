//! DASH manifests: every URL that comes back to the proxy gets a parameter, and no other byte
//! changes.
//!
//! ISO/IEC 23009-1 ("DASH") 5.3 and 5.6, XML 1.0.

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

use super::addition::{Addition, Aim, Edit, Edited, Spelled, TooLong, at_query};

/// The manifest (or a patch of one) with `addition` in the URLs of segments,
/// initialisation, indexes, remote elements, and of the manifest itself.
///
/// A query on a base never reaches what is relative to it (RFC 3986 5.2.2), so a `BaseURL` that is
/// a folder stays as it is and the URLs below it carry the parameter; one that is a file carries
/// it. Below a `BaseURL` of another host nothing relative gets one.
///
/// A document type is refused: manifests have none, and entities are never expanded. A URL with a
/// reference that XML itself does not define stays as it is. The caller bounds the manifest; what
/// comes out is at most 8 MiB.
pub fn rewrite(mpd: &str, addition: &Addition<'_>) -> Result<String, BadMpd> {
    // The reader passes over a byte order mark without counting it.
    let unmarked = mpd.trim_start_matches('\u{feff}');
    let mut reader = Reader::from_str(unmarked);
    // A bare `&` in a URL is a common mistake.
    reader.config_mut().allow_dangling_amp = true;
    let bom = mpd.len() - unmarked.len();
    let mut manifest = Manifest { mpd, addition, edited: Edited::new(mpd), open: Vec::new() };
    let mut start = bom;
    let mut seen = false;
    loop {
        let event = reader.read_event().map_err(|_| BadMpd::NotXml)?;
        let end = bom + usize::try_from(reader.buffer_position()).map_err(|_| BadMpd::NotXml)?;
        match event {
            Event::Start(tag) | Event::Empty(tag) if !seen && !is_root(&tag) => {
                return Err(BadMpd::NotAnMpd);
            }
            Event::Start(tag) => {
                seen = true;
                manifest.tag(&tag)?;
                manifest.enter(&tag, end)?;
            }
            Event::Empty(tag) => {
                seen = true;
                manifest.tag(&tag)?;
            }
            Event::End(_) => manifest.leave(start)?,
            Event::DocType(_) => return Err(BadMpd::DocumentType),
            Event::Eof if !seen => return Err(BadMpd::NotAnMpd),
            Event::Eof if manifest.open.is_empty() => return Ok(manifest.edited.finish()),
            Event::Eof => return Err(BadMpd::NotXml),
            _ => {}
        }
        start = end;
    }
}

/// Why a body is not rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMpd {
    /// The first element is neither `MPD` nor `Patch`.
    #[error("not a DASH manifest")]
    NotAnMpd,
    /// The XML is not well-formed.
    #[error("the manifest is not well-formed XML")]
    NotXml,
    /// It has a document type.
    #[error("the manifest has a document type")]
    DocumentType,
    /// Elements are nested more than 64 deep.
    #[error("the manifest is nested too deep")]
    TooDeep,
    /// It has so many URLs that it would be longer than 8 MiB.
    #[error("the manifest has too many URLs")]
    TooLong,
}

impl From<TooLong> for BadMpd {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

/// Manifests nest some ten deep.
const MAX_DEPTH: usize = 64;

fn is_root(tag: &BytesStart<'_>) -> bool {
    matches!(tag.local_name().into_inner(), "MPD" | "Patch")
}

/// Attributes that hold a URL or a template of one (DASH 5.3.9), by element.
fn holds_url(element: &str, attribute: &str) -> bool {
    match element {
        "SegmentTemplate" => {
            matches!(attribute, "media" | "index" | "initialization" | "bitstreamSwitching")
        }
        "SegmentURL" => matches!(attribute, "media" | "index"),
        "Initialization" | "RepresentationIndex" | "BitstreamSwitching" => attribute == "sourceURL",
        "InitializationSet" => attribute == "initialization",
        _ => false,
    }
}

/// An element that is open.
#[derive(Clone, Copy, Debug)]
struct Open {
    text: Text,
    /// Where its content begins.
    content: usize,
    /// What is relative leads to another host, as far as the elements around it say.
    abroad_around: bool,
    /// The same, by the element's own `BaseURL`s: one of several is enough.
    abroad_within: Option<bool>,
}

impl Open {
    fn abroad(&self) -> bool {
        self.abroad_within.unwrap_or(self.abroad_around)
    }
}

/// What the text of an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    /// No URL.
    Other,
    /// What other URLs are relative to, or a media file.
    Base,
    /// `Location`, `PatchLocation`: where to ask next time.
    Url,
}

#[derive(Debug)]
struct Manifest<'a> {
    mpd: &'a str,
    addition: &'a Addition<'a>,
    edited: Edited<'a>,
    open: Vec<Open>,
}

impl Manifest<'_> {
    fn tag(&mut self, tag: &BytesStart<'_>) -> Result<(), BadMpd> {
        let abroad = self.abroad();
        // A check for names that come twice compares each with each.
        for attribute in tag.attributes().with_checks(false) {
            let attribute = attribute.map_err(|_| BadMpd::NotXml)?;
            let (name, prefix) = attribute.key.decompose();
            // DASH 5.5: `xlink:href`, whatever the prefix.
            let holds_url = if prefix.is_some() {
                name.into_inner() == "href"
            } else {
                holds_url(tag.local_name().into_inner(), name.into_inner())
            };
            let start = place_in(self.mpd, &attribute.value).filter(|_| holds_url);
            if let Some(url) = start.and_then(|start| Url::of_attribute(&attribute.value, start)) {
                self.add(&url, abroad)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, tag: &BytesStart<'_>, content: usize) -> Result<(), BadMpd> {
        if self.open.len() == MAX_DEPTH {
            return Err(BadMpd::TooDeep);
        }
        let text = match tag.local_name().into_inner() {
            "BaseURL" => Text::Base,
            "Location" | "PatchLocation" => Text::Url,
            _ => Text::Other,
        };
        let abroad_around = self.abroad();
        self.open.push(Open { text, content, abroad_around, abroad_within: None });
        Ok(())
    }

    /// The innermost element ends, its content at `content_end`.
    fn leave(&mut self, content_end: usize) -> Result<(), BadMpd> {
        let element = self.open.pop().ok_or(BadMpd::NotXml)?;
        let content = self.mpd.get(element.content..content_end).unwrap_or_default();
        if element.text == Text::Other || content.trim().is_empty() {
            return Ok(());
        }
        match (element.text, Url::of_text(content, element.content)) {
            (Text::Base, url) => self.base(url.as_ref()),
            (_, Some(url)) => self.add(&url, element.abroad_around),
            (_, None) => Ok(()),
        }
    }

    /// A `BaseURL` of the innermost element; one that cannot be read leads who knows where.
    fn base(&mut self, url: Option<&Url<'_>>) -> Result<(), BadMpd> {
        let aim = url.map_or(Aim::Elsewhere, |url| self.addition.aim(&url.spelled.uri));
        let Some(parent) = self.open.last_mut() else { return Ok(()) };
        let around = parent.abroad_around;
        let abroad = aim == Aim::Elsewhere || aim == Aim::Relative && around;
        parent.abroad_within = Some(abroad || parent.abroad_within == Some(true));
        match url {
            Some(url) if !is_folder(&url.spelled.uri) => self.add(url, around),
            _ => Ok(()),
        }
    }

    fn add(&mut self, url: &Url<'_>, abroad: bool) -> Result<(), BadMpd> {
        let aim = self.addition.aim(&url.spelled.uri);
        if aim == Aim::Elsewhere || aim == Aim::Relative && abroad {
            return Ok(());
        }
        let Edit { at, parts } = self.addition.edit(&url.spelled.uri);
        let parts = parts.map(|part| if url.escaped && part == "&" { "&amp;" } else { part });
        match url.spelled.place(&at) {
            Some(at) => Ok(self.edited.edit(&Edit { at, parts })?),
            None => Ok(()),
        }
    }

    fn abroad(&self) -> bool {
        self.open.last().is_some_and(Open::abroad)
    }
}

/// A URL, and how the manifest writes it.
#[derive(Debug)]
struct Url<'a> {
    spelled: Spelled<'a>,
    escaped: bool,
}

impl<'a> Url<'a> {
    /// An attribute's value or an element's text that begins at `start` in the manifest. None if
    /// it has a reference that XML itself does not define, or a `<`, which neither XML 1.0 3.1 nor
    /// a URL allows.
    fn of_attribute(value: &'a str, start: usize) -> Option<Self> {
        if value.contains('<') {
            return None;
        }
        let mut spelled = Spelled::at(start);
        let mut rest = value;
        while let Some(reference) = rest.find('&') {
            let (before, behind) = rest.split_at(reference);
            let (reference, behind) = behind.split_at(behind.find(';')? + 1);
            spelled.push(before);
            spelled.push_meaning(reference.len(), &unescape(reference).ok()?);
            rest = behind;
        }
        spelled.push(rest);
        Some(Self { spelled, escaped: true })
    }

    /// The content of an element: text alone, or one CDATA section with blanks around it.
    fn of_text(content: &'a str, start: usize) -> Option<Self> {
        let section = content.trim().strip_prefix("<![CDATA[");
        if let Some(text) = section.and_then(|section| section.strip_suffix("]]>"))
            && !text.contains('<')
            && !text.contains("]]>")
        {
            let mut spelled = Spelled::at(start + place_in(content, text)?);
            spelled.push(text);
            return Some(Self { spelled, escaped: false });
        }
        Self::of_attribute(content, start)
    }
}

/// Whether what is relative to the URL keeps its whole path.
fn is_folder(url: &str) -> bool {
    let (hierarchy, _) = at_query(url.trim());
    let (_, path) = hierarchy.split_once("//").unwrap_or(("", hierarchy));
    hierarchy.ends_with('/') || path.len() < hierarchy.len() && !path.contains('/')
}

/// Where a part of a text begins in it.
fn place_in(whole: &str, part: &str) -> Option<usize> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    (whole.get(start..)?.starts_with(part)).then_some(start)
}

#[cfg(test)]
mod tests;
