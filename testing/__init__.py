"""What tests share: oracles, odd inputs, small models, and ways to run things."""
