"""Everything that holds Fleetlift to its word."""

import pytest

pytest.register_assert_rewrite("tests.support")  # so that what does not hold in there is shown with its values
