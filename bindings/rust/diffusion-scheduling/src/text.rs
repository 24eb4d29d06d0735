// SPDX-License-Identifier: Apache-2.0

//! Text and numbers on their way to and from the C interface.

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_void};
use std::ptr;

use diffusion_scheduling_sys::{ds_status, DS_BUFFER_TOO_SMALL, DS_OK};

use crate::error::{check, Error, Result};

/// A text for C, or an error that names the argument if it contains a zero byte.
pub(crate) fn c_text(text: &str, argument: &str) -> Result<CString> {
    CString::new(text).map_err(|error| {
        Error::InvalidValue(format!(
            "{argument} has a zero byte at {}, but must have none",
            error.nul_position()
        ))
    })
}

/// The C form of an optional text.
pub(crate) fn optional_c_text(text: Option<&str>, argument: &str) -> Result<Option<CString>> {
    text.map(|text| c_text(text, argument)).transpose()
}

/// The address of an optional text.
pub(crate) fn address(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

/// A text of the library that is valid for the life of the process; `None` for NULL.
///
/// # Safety
///
/// The address is NULL or leads to such a text.
pub(crate) unsafe fn static_text(address: *const c_char) -> Option<&'static str> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the caller promises a text that ends with a zero and stays valid.
    let text = unsafe { CStr::from_ptr(address) };
    Some(text.to_str().expect("the library's texts are UTF-8"))
}

/// The result of a function that fills a buffer and reports the total size. The buffer has room for `extra` more elements.
fn filled<T: Clone>(none: T, extra: usize, mut fill: impl FnMut(*mut T, usize, *mut usize) -> ds_status) -> Result<Vec<T>> {
    let mut length = 0;
    check(fill(ptr::null_mut(), 0, &mut length))?;
    loop {
        let mut buffer = vec![none.clone(); length + extra];
        // Capacity 0 would only ask for the size again.
        if buffer.is_empty() {
            return Ok(buffer);
        }
        let status = fill(buffer.as_mut_ptr(), buffer.len(), &mut length);
        if status == DS_OK || status != DS_BUFFER_TOO_SMALL {
            check(status)?;
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

/// The text written by a function.
pub(crate) fn text_of(mut fill: impl FnMut(*mut c_char, usize, *mut usize) -> ds_status) -> Result<String> {
    let bytes = filled(0u8, 1, |buffer, capacity, length| fill(buffer.cast(), capacity, length))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The bytes written by a function.
pub(crate) fn bytes_of(mut fill: impl FnMut(*mut c_void, usize, *mut usize) -> ds_status) -> Result<Vec<u8>> {
    filled(0u8, 0, |buffer, capacity, length| fill(buffer.cast(), capacity, length))
}

/// The numbers written by a function.
pub(crate) fn numbers_of(fill: impl FnMut(*mut f64, usize, *mut usize) -> ds_status) -> Result<Vec<f64>> {
    filled(0f64, 0, fill)
}

/// The strings of a JSON array of strings in the library's format.
pub(crate) fn strings_of_json(json: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut characters = json.chars();
    while let Some(character) = characters.next() {
        if character == '"' {
            strings.push(string_of_json(&mut characters));
        }
    }
    strings
}

/// A JSON string whose opening quotation mark has been read.
fn string_of_json(characters: &mut std::str::Chars<'_>) -> String {
    let mut units: Vec<u16> = Vec::new();
    let mut buffer = [0; 2];
    while let Some(character) = characters.next() {
        let meant = match character {
            '"' => break,
            '\\' => match characters.next().unwrap_or('\\') {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits: String = characters.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).unwrap_or(0xFFFD));
                    continue;
                }
                other => other,
            },
            other => other,
        };
        units.extend_from_slice(meant.encode_utf16(&mut buffer));
    }
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_arrays_of_strings_are_read() {
        assert_eq!(strings_of_json("[]"), Vec::<String>::new());
        assert_eq!(
            strings_of_json(r#"["a", "b, \"c\"", "", "σ\n\\", "\u00e9\ud83d\ude00"]"#),
            ["a", "b, \"c\"", "", "σ\n\\", "é😀"]
        );
    }

    #[test]
    fn zero_bytes_are_named() {
        let error = c_text("a\0b", "class_name").unwrap_err();
        assert_eq!(
            error,
            Error::InvalidValue("class_name has a zero byte at 1, but must have none".to_owned())
        );
    }
}
