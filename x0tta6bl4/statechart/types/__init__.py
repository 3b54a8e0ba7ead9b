"""Values, their types, and the expressions over them."""
