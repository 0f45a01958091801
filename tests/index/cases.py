"""Texts and items that the tests of the index encode."""

TEXTS = ["red lipstick", "a shampoo for dry hair", "", "립스틱 💄", "x" * 3000]
METADATA = {
    1: {"title": "Red nail polish", "brand": "OPI", "category": "Nails"},
    2: {"title": "Shampoo", "category": "Hair"},
    4: {"category": "Soap"},
}
