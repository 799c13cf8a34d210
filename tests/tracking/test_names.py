"""Names as MLflow takes them."""

from fedcl.tracking.client import spelt


def test_sites_of_different_names_have_different_metrics():
    names = ["A+B", "A&B", "A_B", "A B", "St. Jude's", "Krankenhaus Köln", "a/b-c.d:e"]
    assert len({spelt(f"score/{name}") for name in names}) == len(names)
    assert spelt("score/A+B") == "score/A_2BB" and spelt("a/b-c.d:e") == "a/b-c.d:e"
