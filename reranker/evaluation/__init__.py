"""How good an order is: judgments in, figures with their uncertainty out."""
