//! Rules of rendering.

use roadstead_class::{Class, render};
use serde_json::json;

use crate::given;

#[test]
fn equal_input_gives_equal_output_and_digest() {
    for version in given::examples() {
        let class = Class::parse(&version).unwrap();
        let tenant = given::tenant(&class, &json!({}));
        let (a, b) = (render(&class, &tenant, &given::site()).unwrap(), render(&class, &tenant, &given::site()).unwrap());
        assert_eq!(a, b);
    }
}
