use super::problem;

#[test]
fn brackets_in_strings_and_comments_do_not_count() {
    let good = [
        (
            "rs",
            r##"fn f<'a>(x: &'a str) -> char { let _ = r#"{"# ; let b = br"(("; '{'; '\''; '\u{7b}'; "}\"{" ; /* ( /* [ */ */ 'x: loop { break 'x } // (
                 }"##,
        ),
        ("rs", "fn r#type() { let b = b'{'; let c = '\"'; let d = b\"(\"; }"),
        (
            "js",
            "const a = `${f({a: `(${b}`})} {`; const r = /[(/]\\(/g; x = a / (b) / c; // )\n'}' ; return /{/.test(a)",
        ),
        ("js", "a = b ? /\\)/ : /[}]/; x = [1] / 2; y = a\n/ 2;"),
        ("ts", "type A<T> = { [k in keyof T]: T[k] }; let s = \"it's (\"; /* } */"),
        ("java", "class A { char c = '{'; String s = \"\"\"\n  {{ \"x\" \\\"\"\"\n \"\"\"; }"),
        ("c", "int main(void) { char c = '('; puts(\"\\\")\"); /* { */ return 0; }"),
        ("cpp", "int x = 1'000'000; auto s = R\"--({[)--\"; char c = '}'; auto w = L'(';"),
        ("go", "func f() { a := `{(`; b := '{'; c := \"}\" }"),
        ("css", "a::after { content: \"}\"; background: url(http://x/y) } /* { */"),
        (
            "php",
            "<p>:) it's</p><?php function f() { # (\n #[Attr(1)]\n $x = <<<EOT\n ( {$a} it's\n EOT; ?> ( <?= f(1) ?> <?php } // ) ?>",
        ),
        ("kt", "fun f() = \"${g(\"(\")} {\" + \"\"\"( \\\"\"\"\" + '}'"),
        ("swift", "func f() { let a = \"\\(g(\"(\")) {\"; let b = #\"(\"\\#\"#; let c = \"\"\"\n ( \"x\"\n\"\"\" }"),
        ("py", "def f(a):\n    '''it's ('''\n    return {a: \"}\", 'b': r'\\'('}  # [\nx = f\"{a}(\"\n"),
    ];
    for (language, text) in good {
        assert_eq!(problem(language, text), None, "{language}: {text}");
    }
}

#[test]
fn brackets_that_do_not_match_are_found() {
    let bad = [
        ("rs", "fn f() {\n  g(1;\n}\n", "'(' in line 2 is closed by '}' in line 3"),
        ("js", "function f() {\n", "'{' in line 1 is never closed"),
        ("js", "const a = `x ${f(} y`;", "'(' in line 1 is closed by '}' in line 1"),
        ("ts", "const a = [1, 2];\n})\n", "'}' in line 2 closes nothing"),
        ("py", "x = (1,\ny = 2\n", "'(' in line 1 is never closed"),
        ("java", "class A { void f() { }\n", "'{' in line 1 is never closed"),
        ("go", "func f() {\n/* open", "a comment or string that begins in line 2 never ends"),
        ("css", "a { color: red }}\n", "'}' in line 1 closes nothing"),
        ("php", "<?php\nif ($a) {\n", "'{' in line 2 is never closed"),
    ];
    for (language, text, expected) in bad {
        assert_eq!(problem(language, text).as_deref(), Some(expected), "{language}: {text}");
    }
}

#[test]
fn on_doubt_nothing_is_found() {
    let doubtful = [
        ("js", "const a = <p>Don't :(</p>;"),
        ("c", "#if A\nif (x) {\n#else\nif (y) {\n#endif\n}\n"),
        ("js", "if (x) /[(]/.test(y)"),
        ("py", "x = 'no end (\ny = [\n"),
        ("jsx", "<p>:(</p>"),
        ("txt", "(("),
    ];
    for (language, text) in doubtful {
        assert_eq!(problem(language, text), None, "{language}: {text}");
    }
}

#[test]
fn any_text_is_read_to_its_end_without_a_panic() {
    let pieces = [
        "'", "\"", "`", "${", "\\", "r#\"", "R\"(", "#\"", "<<<A\n", "/*", "//", "?>", "ä", "(", "}", "\n", "'''", "b",
        "/",
    ];
    let n = pieces.len();
    for pick in 0..n * n * n {
        let text: String = [pick % n, pick / n % n, pick / n / n].map(|at| pieces[at]).concat();
        for language in ["rs", "js", "java", "c", "cpp", "go", "css", "php", "kt", "swift", "py"] {
            problem(language, &text);
            problem(language, &format!("<?{text}"));
        }
    }
}
