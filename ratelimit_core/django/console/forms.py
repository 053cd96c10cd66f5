"""The form of an action on a breaker, for the admin and the dashboard."""

from __future__ import annotations

from typing import Any

from django import forms

from .actions import ACTIONS


class ControlForm(forms.Form):
    """The form of an action on a breaker."""

    action = forms.ChoiceField(choices=[(name, action.label) for name, action in ACTIONS.items()])
    reason = forms.CharField(
        max_length=500,
        help_text="The history keeps the reason, with your name.",
        widget=forms.TextInput({"class": "vTextField"}),
    )
    minutes = forms.IntegerField(
        label="For how many minutes",
        required=False,
        min_value=1,
        max_value=400 * 24 * 60,
        help_text="After this time the breaker is automatic again. Without a number, the mode has no end.",
        widget=forms.NumberInput({"class": "vIntegerField"}),
    )

    def clean(self) -> dict[str, Any]:
        """Reject a number of minutes for an action that can't end by itself."""
        data = super().clean() or {}
        action = ACTIONS.get(data.get("action", ""))
        if action and data.get("minutes") and not action.may_end:
            self.add_error("minutes", f"“{action.label}” takes effect at once and has no end, so leave this empty.")
        return data
